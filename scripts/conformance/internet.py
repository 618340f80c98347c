"""A proxy that answers 200 to `GET http://google.com/` and 502 to everything else.

usage: internet.py ADDRESS PORT
"""

import http.server
import sys


class Answer(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        there = self.path.rstrip("/") in ("http://google.com", "http://www.google.com")
        body = b"yes\n" if there else b"there is no internet here\n"
        self.send_response(200 if there else 502)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)


http.server.ThreadingHTTPServer((sys.argv[1], int(sys.argv[2])), Answer).serve_forever()
