"""The page's parts, as they were packed when the page was built, to who can unpack them."""

import os
import re
from pathlib import Path

from starlette.datastructures import Headers
from starlette.responses import Response
from starlette.staticfiles import StaticFiles
from starlette.types import Scope


class Assets(StaticFiles):
    """Static files; `name.br` beside `name` is what goes to a browser that takes Brotli."""

    def file_response(
        self, full_path: str | os.PathLike[str], stat_result: os.stat_result, scope: Scope, status_code: int = 200
    ) -> Response:
        packed = Path(f"{os.fspath(full_path)}.br")
        taken = re.search(r"\bbr\b(?!\s*;\s*q=0(\.0*)?\s*(,|$))", Headers(scope=scope).get("accept-encoding", ""))
        if not taken or not packed.is_file():
            return super().file_response(full_path, stat_result, scope, status_code)
        response = super().file_response(packed, packed.stat(), scope, status_code)
        response.headers["content-encoding"] = "br"
        response.headers.add_vary_header("Accept-Encoding")
        return response
