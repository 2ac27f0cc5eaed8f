"""Files to arrays and back: decoding, encoding, colour profiles, EXIF, what a file says of how it was made.

Without torch: arrays are numpy's or Pillow's. It does not know what the pictures are for.
"""
