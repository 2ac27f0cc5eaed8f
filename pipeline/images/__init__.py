"""Picture files to arrays and back: decoding, encoding, colour profiles, EXIF, and how a result was made.

Arrays are NumPy's or Pillow's; torch is not loaded. This package does not know what the pictures are for.
"""
