#!/usr/bin/env python3
"""A folder as an S3 server, with a delay before every answer: how much a job suffers from a store that is far away.

    s3_server.py --root FOLDER --latency-ms 20 [--port 0] [--log requests.jsonl]

Prints its port, then serves `/BUCKET/KEY` as the file `FOLDER/BUCKET/KEY` until it is killed. It answers what the Rust
crate object_store asks for: GET (also of a range), HEAD, ListObjectsV2, PUT (also with `If-None-Match: *`, also as a
copy), DELETE, bulk deletion and multipart uploads. Signatures are not looked at. What is being uploaded lies in
`FOLDER/.uploads`, which has to be on the file system of the buckets that are written to.
"""

import argparse
import json
import os
import shutil
import socket
import sys
import threading
import time
import urllib.parse
import uuid
import xml.etree.ElementTree as ElementTree
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from itertools import islice
from pathlib import Path
from xml.sax.saxutils import escape

PAGE = 1000
BLOCK = 1 << 20


class Refused(Exception):
    """A request that is answered with an error."""

    def __init__(self, status: int, code: str):
        super().__init__(code)
        self.status, self.code = status, code


class Server(ThreadingHTTPServer):
    daemon_threads = True
    # A client opens many connections at once; one that finds no room in the queue tries again a second later.
    request_queue_size = 1024

    def __init__(self, port: int, root: Path, latency_s: float, log: Path | None):
        super().__init__(("127.0.0.1", port), Handler)
        self.root, self.latency_s = root, latency_s
        self.uploads = root / ".uploads"
        self.log = log.open("a") if log else None
        self.log_lock = threading.Lock()

    def handle_error(self, request, client_address):
        # A client may leave in the middle of an answer.
        if not isinstance(sys.exception(), ConnectionError):
            super().handle_error(request, client_address)


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: Server

    def setup(self):
        super().setup()
        self.connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)

    def log_message(self, *_):
        pass

    def respond(self):
        """Waits, then does what the method says; the body is read first, so that the next request begins behind it."""
        url = urllib.parse.urlsplit(self.path)
        self.bucket, _, self.key = urllib.parse.unquote(url.path).lstrip("/").partition("/")
        self.query = dict(urllib.parse.parse_qsl(url.query, keep_blank_values=True))
        self.body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        time.sleep(self.server.latency_s)
        method = "get" if self.command == "HEAD" else self.command.lower()
        try:
            getattr(self, method)()
        except Refused as refusal:
            self.answer(refusal.status, xml("Error", tag("Code", refusal.code) + tag("Message", refusal.code)))

    do_HEAD = do_GET = do_PUT = do_POST = do_DELETE = respond

    def get(self):
        if not self.key:
            return self.listing()
        try:
            file = self.file(self.key).open("rb")
        except (FileNotFoundError, IsADirectoryError, NotADirectoryError):
            raise Refused(404, "NoSuchKey") from None
        with file:
            stat = os.fstat(file.fileno())
            wanted = self.headers.get("Range")
            start, end = within(wanted, stat.st_size) if wanted else (0, stat.st_size)
            headers = {"ETag": etag(stat), "Last-Modified": self.date_time_string(stat.st_mtime)}
            if wanted:
                headers["Content-Range"] = f"bytes {start}-{end - 1}/{stat.st_size}"
            self.head(206 if wanted else 200, end - start, headers)
            while self.command == "GET" and start < end:
                sent = os.sendfile(self.connection.fileno(), file.fileno(), start, min(BLOCK, end - start))
                if not sent:
                    raise ConnectionError("the file has become shorter")
                start += sent

    def listing(self):
        """A page of ListObjectsV2; a page goes on behind the last name of the one before, which is its token."""
        if not (self.server.root / self.bucket).is_dir():
            raise Refused(404, "NoSuchBucket")
        if self.query.get("delimiter", "") not in ("", "/"):
            raise Refused(501, "NotImplemented")
        prefix = self.query.get("prefix", "")
        after = self.query.get("continuation-token") or self.query.get("start-after", "")
        size = min(PAGE, int(self.query.get("max-keys", PAGE)))
        found = below(self.file(prefix.rpartition("/")[0]), prefix, after, "delimiter" in self.query)
        names = list(islice(found, size + 1))
        page, more = names[:size], len(names) > size
        parts = [tag("Name", self.bucket), tag("Prefix", prefix), tag("KeyCount", len(page))]
        parts += [tag("MaxKeys", size), tag("IsTruncated", str(more).lower())]
        parts += [tag("NextContinuationToken", page[-1][0])] if more and page else []
        for name, stat in page:
            if stat is None:
                parts.append(f"<CommonPrefixes>{tag('Prefix', name)}</CommonPrefixes>")
                continue
            facts = tag("Key", name) + tag("LastModified", moment(stat)) + tag("ETag", etag(stat))
            parts.append(f"<Contents>{facts}{tag('Size', stat.st_size)}</Contents>")
        self.answer(200, xml("ListBucketResult", "".join(parts)))

    def put(self):
        if not self.key:
            (self.server.root / self.bucket).mkdir(parents=True, exist_ok=True)
            return self.answer(200)
        if "partNumber" in self.query:
            part = self.upload() / str(int(self.query["partNumber"]))
            part.write_bytes(self.body)
            return self.answer(200, headers={"ETag": etag(part.stat())})
        source = self.headers.get("x-amz-copy-source")
        if source is None:
            return self.answer(200, headers={"ETag": self.store([self.body])})
        bucket, _, key = urllib.parse.unquote(source).lstrip("/").partition("/")
        try:
            found = self.store([self.file(key, bucket).read_bytes()])
        except (FileNotFoundError, IsADirectoryError, NotADirectoryError):
            raise Refused(404, "NoSuchKey") from None
        now = time.strftime("%Y-%m-%dT%H:%M:%S.000Z", time.gmtime())
        self.answer(200, xml("CopyObjectResult", tag("LastModified", now) + tag("ETag", found)))

    def post(self):
        if "uploads" in self.query:
            upload = uuid.uuid4().hex
            (self.server.uploads / upload).mkdir(parents=True)
            facts = tag("Bucket", self.bucket) + tag("Key", self.key) + tag("UploadId", upload)
            self.answer(200, xml("InitiateMultipartUploadResult", facts))
        elif "uploadId" in self.query:
            folder = self.upload()
            parts = [folder / str(int(number)) for number in self.texts("PartNumber")]
            if not parts or not all(part.is_file() for part in parts):
                raise Refused(400, "InvalidPart")
            found = self.store(part.read_bytes() for part in parts)
            shutil.rmtree(folder)
            facts = tag("Bucket", self.bucket) + tag("Key", self.key) + tag("ETag", found)
            self.answer(200, xml("CompleteMultipartUploadResult", facts))
        elif "delete" in self.query:
            names = self.texts("Key")
            for name in names:
                self.file(name).unlink(missing_ok=True)
            gone = "".join(f"<Deleted>{tag('Key', name)}</Deleted>" for name in names)
            self.answer(200, xml("DeleteResult", gone))
        else:
            raise Refused(501, "NotImplemented")

    def delete(self):
        if "uploadId" in self.query:
            shutil.rmtree(self.upload())
        else:
            # S3 does not mind when there is nothing to delete.
            try:
                self.file(self.key).unlink()
            except (FileNotFoundError, IsADirectoryError, NotADirectoryError):
                pass
        self.answer(204)

    def file(self, key: str, bucket: str | None = None) -> Path:
        bucket = self.bucket if bucket is None else bucket
        if ".." in key.split("/") or bucket in ("", "..", self.server.uploads.name):
            raise Refused(400, "InvalidArgument")
        return self.server.root / bucket / key

    def upload(self) -> Path:
        """The folder of the parts of an upload that is under way."""
        folder = self.server.uploads / self.query["uploadId"]
        if not self.query["uploadId"].isalnum() or not folder.is_dir():
            raise Refused(404, "NoSuchUpload")
        return folder

    def texts(self, name: str) -> list[str]:
        """What the request's XML says in all elements of a name."""
        try:
            return [element.text or "" for element in ElementTree.fromstring(self.body).iterfind(f".//{{*}}{name}")]
        except ElementTree.ParseError:
            raise Refused(400, "MalformedXML") from None

    def store(self, blocks) -> str:
        """Writes a file that is there as a whole or not at all, and returns its ETag."""
        path = self.file(self.key)
        staged = self.server.uploads / f"{uuid.uuid4().hex}.whole"
        staged.parent.mkdir(exist_ok=True)
        path.parent.mkdir(parents=True, exist_ok=True)
        with staged.open("wb") as file:
            file.writelines(blocks)
        found = etag(staged.stat())
        if self.headers.get("If-None-Match") != "*":
            staged.rename(path)
            return found
        # A link is refused where a file is there, whoever else is writing it now.
        try:
            os.link(staged, path)
        except FileExistsError:
            raise Refused(412, "PreconditionFailed") from None
        finally:
            staged.unlink()
        return found

    def answer(self, status: int, body: bytes = b"", headers: dict[str, str] | None = None):
        self.head(status, len(body), {"Content-Type": "application/xml"} | (headers or {}))
        if self.command != "HEAD":
            self.wfile.write(body)

    def head(self, status: int, size: int, headers: dict[str, str]):
        """The answer's head; the request is logged before, so that a client who has its answer finds the line."""
        if self.server.log:
            sent = 0 if self.command == "HEAD" else size
            line = dict(method=self.command, bucket=self.bucket, key=self.key, query=self.query, status=status)
            with self.server.log_lock:
                print(json.dumps(line | dict(bytes=sent, received=len(self.body))), file=self.server.log, flush=True)
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        # An answer of status 204 has no body and says no length.
        if status != 204:
            self.send_header("Content-Length", str(size))
        self.end_headers()


def within(wanted: str, size: int) -> tuple[int, int]:
    """The start and end of `bytes=A-B`, `bytes=A-` or `bytes=-N` in a file of some size."""
    first, _, last = wanted.removeprefix("bytes=").partition("-")
    try:
        start = int(first) if first else max(0, size - int(last))
        end = min(size, int(last) + 1) if first and last else size
    except ValueError:
        raise Refused(501, "NotImplemented") from None
    if start >= end:
        raise Refused(416, "InvalidRange")
    return start, end


def below(folder: Path, prefix: str, after: str, shallow: bool) -> Iterator[tuple[str, os.stat_result | None]]:
    """The keys behind `after` that begin with a prefix, in their order; a shallow look names the folders in it only."""
    try:
        entries = list(os.scandir(folder))
    except (FileNotFoundError, NotADirectoryError):
        return
    at = prefix.rpartition("/")[0] + "/" if "/" in prefix else ""
    # A folder's `/` counts in the order: `a-b` comes before `a/b`.
    for name, entry in sorted((at + entry.name + ("/" if entry.is_dir() else ""), entry) for entry in entries):
        if not name.startswith(prefix):
            continue
        if not name.endswith("/"):
            if name > after:
                yield name, entry.stat()
        elif name > after or after.startswith(name):
            inside = below(Path(entry.path), name, after, shallow=False)
            if not shallow:
                yield from inside
            elif name != after and next(inside, None):
                yield name, None


def moment(stat: os.stat_result) -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%S.000Z", time.gmtime(stat.st_mtime))


def etag(stat: os.stat_result) -> str:
    return f'"{stat.st_mtime_ns:x}-{stat.st_size:x}"'


def tag(name: str, text: object) -> str:
    return f"<{name}>{escape(str(text))}</{name}>"


def xml(name: str, inner: str) -> bytes:
    return f'<?xml version="1.0" encoding="UTF-8"?><{name}>{inner}</{name}>'.encode()


def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--root", type=Path, required=True, help="folder of the buckets")
    p.add_argument("--port", type=int, default=0, help="0: any that is free")
    p.add_argument("--latency-ms", type=float, default=20, help="delay before every answer")
    p.add_argument("--log", type=Path, help="write a line per request here")
    args = p.parse_args()
    server = Server(args.port, args.root.resolve(), args.latency_ms / 1e3, args.log)
    print(server.server_port, flush=True)
    server.serve_forever()


if __name__ == "__main__":
    main()
