"""Views over the records of batches: the sheet, which is one file, and the page in the browser.

The sheet is `layout`, `sheet` and `contact`. The page is `server` and `app`: `state` is what it shows, from
`results`, `running` and `watched`; `security` says who may ask, and `uploads` writes into the inbox as
anyone who drops a file there. Both read what `storage` keeps, and write only their own files: `index.html`,
`.thumbs/`, thumbnails in the cache, and a picture on request. This package never loads torch, decodes no
picture in the server's process, and knows neither how pictures are made nor what a daemon does.
"""
