"""tuspy as people use it, and a client that dies in the middle of an upload.

    tus_py.py ENDPOINT FILE CHUNK_SIZE [--cut-after BYTES] [--resume URL]

CHUNK_SIZE 0 sends what is left in one PATCH. With --cut-after the process ends in the middle of a request as soon as this run has
handed that many bytes of the file to the connection, with the upload's URL on standard output; --resume goes on from what the
server has. An upload that is whole ends with one line of JSON: url, size, and the offset that it was resumed from.
"""

import argparse
import http.client
import json
import os
import pathlib

from tusclient import client


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("endpoint")
    parser.add_argument("file", type=pathlib.Path)
    parser.add_argument("chunk_size", type=int)
    parser.add_argument("--cut-after", type=int)
    parser.add_argument("--resume", metavar="URL")
    options = parser.parse_args()
    size = options.file.stat().st_size
    # tuspy reads a chunk of 0 bytes as an endless number of empty ones.
    chunk = {"chunk_size": options.chunk_size} if options.chunk_size else {}
    uploader = client.TusClient(options.endpoint).uploader(
        str(options.file), url=options.resume, metadata={"filename": options.file.name}, retries=0, **chunk
    )
    resumed_from = uploader.offset if options.resume else None
    if not options.resume:
        # Before the bytes, so that whoever is cut off knows where to go on.
        uploader.set_url(uploader.create_url())
        uploader.offset = 0
    if options.cut_after is not None:
        cut(options.cut_after, uploader.url)
    uploader.upload()
    print(json.dumps({"url": uploader.url, "size": size, "resumed_from": resumed_from}))


def cut(after: int, url: str) -> None:
    """Lets the next `after` bytes of bodies pass, and ends the process there."""
    send, left = http.client.HTTPConnection.send, after

    def counted(connection: http.client.HTTPConnection, data: bytes) -> None:
        nonlocal left
        # Heads are sent by the same method.
        if not is_head(data):
            if len(data) > left:
                send(connection, data[:left])
                os.write(1, f"{url}\n".encode())
                os._exit(0)
            left -= len(data)
        send(connection, data)

    http.client.HTTPConnection.send = counted


def is_head(data: bytes) -> bool:
    return data.startswith((b"PATCH ", b"POST ", b"HEAD "))


if __name__ == "__main__":
    main()
