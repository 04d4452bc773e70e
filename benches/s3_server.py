#!/usr/bin/env python3
"""A folder as an S3 bucket, with a delay before every answer: how much a job suffers from a store that is far away.

    s3_server.py --root FOLDER --latency-ms 20 [--port 0] [--log requests.jsonl]

Prints its port, then serves `/BUCKET/KEY` as the file `FOLDER/BUCKET/KEY` until it is killed. It knows what a Parquet job asks
for: GET (also of a range), HEAD, ListObjectsV2, PUT (also with `If-None-Match: *`), DELETE and multipart uploads.
Signatures are not looked at.
"""

import argparse
import json
import os
import shutil
import socket
import threading
import time
import urllib.parse
import uuid
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from xml.sax.saxutils import escape

PAGE = 1000
BLOCK = 1 << 20


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    root: Path
    latency: float
    log = None
    lock = threading.Lock()

    def setup(self):
        super().setup()
        self.connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)

    def log_message(self, *_):
        pass

    def begin(self):
        """Waits, and takes the address apart: bucket, key, query."""
        time.sleep(self.latency)
        url = urllib.parse.urlsplit(self.path)
        bucket, _, key = urllib.parse.unquote(url.path).lstrip("/").partition("/")
        return bucket, key, dict(urllib.parse.parse_qsl(url.query, keep_blank_values=True))

    def answer(self, status: int, body: bytes = b"", headers: dict[str, str] | None = None):
        self.send_response(status)
        for name, value in (headers or {}).items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)
        self.note(len(body))

    def note(self, size: int):
        if self.log:
            with self.lock:
                self.log.write(json.dumps(dict(method=self.command, path=self.path, bytes=size)) + "\n")
                self.log.flush()

    def file(self, bucket: str, key: str) -> Path:
        return self.root / bucket / key

    def body(self) -> bytes:
        return self.rfile.read(int(self.headers.get("Content-Length", 0)))

    def do_HEAD(self):
        self.do_GET()

    def do_GET(self):
        bucket, key, query = self.begin()
        if not key:
            return self.listing(bucket, query)
        path = self.file(bucket, key)
        try:
            stat = path.stat()
        except OSError:
            return self.answer(404, error("NoSuchKey"))
        start, end, status = 0, stat.st_size, 200
        wanted = self.headers.get("Range", "").removeprefix("bytes=")
        if wanted:
            first, _, last = wanted.partition("-")
            start = int(first) if first else max(0, stat.st_size - int(last))
            end = min(int(last) + 1, stat.st_size) if first and last else stat.st_size
            status = 206
        self.send_response(status)
        self.send_header("Content-Length", str(end - start))
        self.send_header("ETag", etag(stat))
        self.send_header("Last-Modified", self.date_time_string(stat.st_mtime))
        if status == 206:
            self.send_header("Content-Range", f"bytes {start}-{end - 1}/{stat.st_size}")
        self.end_headers()
        if self.command == "GET":
            with path.open("rb") as file:
                self.wfile.flush()
                while start < end:
                    start += os.sendfile(self.connection.fileno(), file.fileno(), start, min(BLOCK, end - start))
            self.note(end)
        else:
            self.note(0)

    def listing(self, bucket: str, query: dict[str, str]):
        prefix, delimiter = query.get("prefix", ""), query.get("delimiter", "")
        after = query.get("continuation-token", "") or query.get("start-after", "")
        entries, folders = [], set()
        for key, stat in keys(self.root / bucket, prefix):
            rest = key[len(prefix) :]
            if delimiter and delimiter in rest:
                folders.add(prefix + rest.split(delimiter)[0] + delimiter)
            elif key > after:
                entries.append((key, stat))
        entries.sort()
        page, more = entries[:PAGE], len(entries) > PAGE
        parts = [f"<IsTruncated>{str(more).lower()}</IsTruncated><KeyCount>{len(page)}</KeyCount>"]
        if more:
            parts.append(f"<NextContinuationToken>{escape(page[-1][0])}</NextContinuationToken>")
        for key, stat in page:
            moment = time.strftime("%Y-%m-%dT%H:%M:%S.000Z", time.gmtime(stat.st_mtime))
            parts.append(
                f"<Contents><Key>{escape(key)}</Key><LastModified>{moment}</LastModified>"
                f"<ETag>{escape(etag(stat))}</ETag><Size>{stat.st_size}</Size></Contents>"
            )
        parts += [f"<CommonPrefixes><Prefix>{escape(f)}</Prefix></CommonPrefixes>" for f in sorted(folders)]
        self.answer(200, xml("ListBucketResult", "".join(parts)), {"Content-Type": "application/xml"})

    def do_PUT(self):
        bucket, key, query = self.begin()
        body, path = self.body(), self.file(bucket, key)
        if "partNumber" in query:
            part = self.root / ".uploads" / query["uploadId"] / f"{int(query['partNumber']):05}"
            part.write_bytes(body)
            return self.answer(200, headers={"ETag": f'"{query["partNumber"]}"'})
        with self.lock:
            if self.headers.get("If-None-Match") == "*" and path.exists():
                return self.answer(412, error("PreconditionFailed"))
            put(path, body)
        self.answer(200, headers={"ETag": etag(path.stat())})

    def do_POST(self):
        bucket, key, query = self.begin()
        body = self.body()
        if "uploads" in query:
            upload = uuid.uuid4().hex
            (self.root / ".uploads" / upload).mkdir(parents=True)
            return self.answer(200, xml("InitiateMultipartUploadResult", f"<UploadId>{upload}</UploadId>"))
        if "uploadId" in query:
            parts = self.root / ".uploads" / query["uploadId"]
            path = self.file(bucket, key)
            put(path, b"".join(part.read_bytes() for part in sorted(parts.iterdir())))
            shutil.rmtree(parts)
            tag = etag(path.stat())
            return self.answer(200, xml("CompleteMultipartUploadResult", f"<ETag>{escape(tag)}</ETag>"))
        if "delete" in query:
            names = [part.split("</Key>")[0] for part in body.decode().split("<Key>")[1:]]
            for name in names:
                self.file(bucket, name).unlink(missing_ok=True)
            return self.answer(200, xml("DeleteResult", ""))
        self.answer(400, error("NotImplemented"))

    def do_DELETE(self):
        bucket, key, query = self.begin()
        if "uploadId" in query:
            shutil.rmtree(self.root / ".uploads" / query["uploadId"], ignore_errors=True)
        else:
            self.file(bucket, key).unlink(missing_ok=True)
        self.answer(204)


def keys(bucket: Path, prefix: str):
    """Every file below a prefix, as S3 names it."""
    folder = bucket / prefix.rpartition("/")[0]
    for base, _, files in os.walk(folder, followlinks=True):
        below = Path(base).relative_to(bucket).as_posix()
        for name in files:
            key = name if below == "." else f"{below}/{name}"
            if key.startswith(prefix):
                yield key, os.stat(os.path.join(base, name))


def put(path: Path, body: bytes):
    """The old file or the new one, never a part."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{uuid.uuid4().hex}")
    partial.write_bytes(body)
    partial.rename(path)


def etag(stat: os.stat_result) -> str:
    return f'"{stat.st_mtime_ns:x}-{stat.st_size:x}"'


def xml(name: str, inner: str) -> bytes:
    return f'<?xml version="1.0" encoding="UTF-8"?><{name}>{inner}</{name}>'.encode()


def error(code: str) -> bytes:
    return xml("Error", f"<Code>{code}</Code><Message>{code}</Message>")


def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--root", type=Path, required=True, help="folder of the buckets")
    p.add_argument("--port", type=int, default=0, help="0: any that is free")
    p.add_argument("--latency-ms", type=float, default=20, help="delay before every answer")
    p.add_argument("--log", type=Path, help="write a line per request here")
    args = p.parse_args()
    Handler.root, Handler.latency = args.root.resolve(), args.latency_ms / 1e3
    Handler.log = args.log.open("a") if args.log else None
    server = ThreadingHTTPServer(("127.0.0.1", args.port), Handler)
    server.daemon_threads = True
    print(server.server_port, flush=True)
    server.serve_forever()


if __name__ == "__main__":
    main()
