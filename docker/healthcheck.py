"""Is the model ready? Exit status 0 if so, else 1. Standard library only, since an image has no curl.

Triton's /v2/health/ready is not asked: it can stay 200 without the model. GESSO_HEALTH names another address.
"""

from __future__ import annotations

import http.client
import os
import sys
import urllib.parse

READY = "http://127.0.0.1:8000/v2/models/inpaint/ready"
SECONDS = 4  # below the timeout that the images give their health check


def main() -> int:
    url = urllib.parse.urlsplit(os.environ.get("GESSO_HEALTH", READY))
    connection = http.client.HTTPConnection(url.hostname or "127.0.0.1", url.port or 80, timeout=SECONDS)
    try:
        connection.request("GET", url.path)
        status = connection.getresponse().status
    except (OSError, http.client.HTTPException) as error:
        print(f"{url.geturl()}: {error}", file=sys.stderr)
        return 1
    finally:
        connection.close()
    if status != 200:
        print(f"{url.geturl()}: status {status}", file=sys.stderr)
        return 1
    print("ready")
    return 0


if __name__ == "__main__":
    sys.exit(main())
