# A server in Python that knows nothing of restarts. It answers with the name of the release that it runs in.
import http.server
import os
import pathlib

RELEASE = f"{pathlib.Path.cwd().name}\n".encode()


class Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_GET(self):
        self.send_response(200)
        self.send_header("Content-Length", str(len(RELEASE)))
        self.end_headers()
        self.wfile.write(RELEASE)

    def log_message(self, *_):
        pass


address = (os.environ["HOST"], int(os.environ["PORT"]))
http.server.ThreadingHTTPServer(address, Handler).serve_forever()
