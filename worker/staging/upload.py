"""Bringing a job's output files to the server: in pieces over HTTPS, with the node's token.

Called by the worker when the job's shim has ended, so nothing of the job runs; the files may still be links or
somebody else's, which is not trusted. Repeating it is harmless: a piece that is there is replaced by the same.
"""

import logging
import os
import time
from collections.abc import Callable, Sequence

import msgspec

from worker.api import ApiError, NodeApi, OutputPlace, Refused, Unauthorized
from worker.files import boottime
from worker.handover import Result
from worker.layout import JobDir
from worker.protocol import OUTPUT_PIECE_BYTES, AttemptKey, EndReason
from worker.running import Running
from worker.staging.outputs import Output, root_of
from worker.staging.scratch import open_regular

logger = logging.getLogger(__name__)

TRIES = 8
"""Of a piece, with growing pauses: about three minutes in which the server may be away."""

PAUSE_S = 1.0
MAXIMUM_PAUSE_S = 60.0
RESTARTS = 3
TOO_LARGE, CONFLICT = 413, 409


class UploadFailed(Exception):
    """An output file is not at the server, for this reason."""

    def __init__(self, reason: EndReason, detail: str) -> None:
        super().__init__(detail)
        self.reason = reason


def upload_outputs(api: NodeApi, running: Running, result: Result) -> Result:
    """Bring a job's output files to the server; one that ended well fails if they cannot be brought there. Blocks."""
    begin = boottime()
    uploader = Uploader(api, running.key, owner=running.uid, wanted=lambda: running.stop is None)
    try:
        uploader.upload(running.dir, result.outputs)
    except UploadFailed as error:
        logger.warning("output of %s: %s", running.key, error)
        if result.reason is EndReason.FINISHED and not any(t.exit_code for t in result.tasks):
            result = msgspec.structs.replace(result, reason=error.reason, detail=str(error))
    spent_s = (result.stage_out_s or 0.0) + boottime() - begin
    return msgspec.structs.replace(result, stage_out_s=spent_s)


class Uploader:
    """Of one attempt. `wanted`: False ends the waiting between tries."""

    def __init__(
        self, api: NodeApi, key: AttemptKey, *, owner: int, wanted: Callable[[], bool]
    ) -> None:
        self._api = api
        self._key = key
        self._owner = owner
        self._wanted = wanted

    def upload(self, job_dir: JobDir, outputs: Sequence[Output]) -> None:
        """All of them; one that fails does not keep the others back. Blocks. Raises UploadFailed."""
        failure: UploadFailed | None = None
        for number, output in enumerate(outputs):
            try:
                self._upload(job_dir, number, output)
            except UploadFailed as error:
                failure = failure or error
                if not self._wanted():
                    break
        if failure is not None:
            raise failure

    def _upload(self, job_dir: JobDir, number: int, output: Output) -> None:
        root = root_of(output, work=job_dir.work, private=job_dir.private)
        try:
            file = open_regular(root, output.path, owner=self._owner)
        except OSError as error:
            raise UploadFailed(EndReason.STAGE_OUT, f"{output.name}: {error.strerror}") from error
        try:
            self._send(file, number, output)
        finally:
            os.close(file)

    def _send(self, file: int, number: int, output: Output) -> None:
        offset, restarts = 0, 0
        while offset == 0 or offset < output.size:
            data = os.pread(file, min(OUTPUT_PIECE_BYTES, output.size - offset), offset)
            missing = self._put(number, output, offset, data)
            if missing is None:
                offset += OUTPUT_PIECE_BYTES
            elif (restarts := restarts + 1) > RESTARTS:
                raise UploadFailed(EndReason.STAGE_OUT, f"{output.name}: the server lost pieces")
            else:
                offset = missing

    def _put(self, number: int, output: Output, offset: int, data: bytes) -> int | None:
        """Send one piece; returns the offset from which the server wants them again, if it does."""
        place = OutputPlace(
            number=number,
            name=output.name,
            directory=output.directory,
            size=output.size,
            offset=offset,
        )
        for attempt in range(TRIES):
            try:
                self._api.put_output(self._key, place, data)
            except Refused as error:
                if error.status == CONFLICT and error.code.isdigit():
                    return int(error.code)
                large = error.status == TOO_LARGE
                reason = EndReason.OUTPUT_TOO_LARGE if large else EndReason.STAGE_OUT
                raise UploadFailed(reason, f"{output.name}: {error}") from error
            except Unauthorized as error:
                raise UploadFailed(EndReason.STAGE_OUT, f"{output.name}: {error}") from error
            except ApiError as error:
                logger.warning("%s: %s not uploaded: %s", self._key, output.name, error)
                if not self._wanted():
                    break
                time.sleep(min(PAUSE_S * 2**attempt, MAXIMUM_PAUSE_S))
            else:
                return None
        raise UploadFailed(EndReason.STAGE_OUT, f"{output.name}: the server could not be reached")
