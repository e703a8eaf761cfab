"""`/outputs/{id}/{name}`: files that jobs left, by signed address; no token is asked for (C35)."""

import re

from django.http import HttpRequest, HttpResponseBase, JsonResponse, StreamingHttpResponse
from django.utils.http import content_disposition_header
from django.views.decorators.http import require_safe

from jobs.models import OutputFile
from jobs.output_files import NotSigned, open_signed, read_output_file, shown_name

_RANGE = re.compile(r"bytes=(\d{1,18})-")


@require_safe
def output_file_view(request: HttpRequest, file_id: str, name: str) -> HttpResponseBase:
    """The file, from the byte that `Range: bytes=N-` names; 403 for an address that is not valid (any more)."""
    try:
        file = open_signed(
            file_id, request.GET.get("expires", ""), request.GET.get("signature", "")
        )
    except NotSigned:
        return JsonResponse({"error": "This address is not valid, or not any more"}, status=403)
    match = _RANGE.fullmatch(request.headers.get("Range", ""))
    start = int(match[1]) if match else 0
    if match and start >= file.size:
        refused = JsonResponse({"error": "The file ends before this range"}, status=416)
        refused["Content-Range"] = f"bytes */{file.size}"
        return refused
    return _stream(file, start, partial=match is not None)


def _stream(file: OutputFile, start: int, *, partial: bool) -> StreamingHttpResponse:
    answer = StreamingHttpResponse(
        read_output_file(file, start),
        status=206 if partial else 200,
        content_type="application/octet-stream",
    )
    answer["Content-Length"] = str(file.size - start)
    answer["Accept-Ranges"] = "bytes"
    if partial:
        answer["Content-Range"] = f"bytes {start}-{file.size - 1}/{file.size}"
    # Never shown by a browser as a page of ours.
    name = shown_name(file).rsplit("/", 1)[-1]
    answer["Content-Disposition"] = content_disposition_header(True, name) or "attachment"
    answer["X-Content-Type-Options"] = "nosniff"
    answer["Content-Security-Policy"] = "sandbox"
    answer["Cache-Control"] = "private, no-store"
    return answer
