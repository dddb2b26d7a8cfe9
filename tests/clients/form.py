"""requests as people use it: a form with text fields and two files, one of them of a name outside ASCII.

    form.py URL FILE_A FILE_B [--file-name NAME]

Prints one line of JSON: the status, and the reply's own JSON.
"""

import argparse
import json
import pathlib

import requests

TEXT_FIELDS = {"title": "Ferien in Graubünden", "empty": "", "lines": "one\r\ntwo\r\n--three--"}


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("url")
    parser.add_argument("file_a", type=pathlib.Path)
    parser.add_argument("file_b", type=pathlib.Path)
    parser.add_argument("--file-name", default='día "ñ" 日本.mp4', help="what the second file is called")
    options = parser.parse_args()
    with options.file_a.open("rb") as a, options.file_b.open("rb") as b:
        files = [("first", (options.file_a.name, a)), ("second", (options.file_name, b, "video/mp4"))]
        reply = requests.post(options.url, data=TEXT_FIELDS, files=files, timeout=60)
    print(json.dumps({"status": reply.status_code, "reply": reply.json()}))


if __name__ == "__main__":
    main()
