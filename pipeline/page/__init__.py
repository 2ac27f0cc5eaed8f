"""Views over the records of a batch: the sheet, which is a page, and the same as one picture.

It reads what `storage` keeps, and writes only its own files: `index.html`, `.thumbs/`, and a picture on
request. It never loads torch, and knows neither how pictures are made nor who asks for a view.
"""
