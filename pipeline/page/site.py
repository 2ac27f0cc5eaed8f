"""What the routes of the page share."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TypeVar

from .pictures import PictureFiles
from .previews import Previews
from .security import Sessions
from .state import State
from .streams import Streams
from .uploads import Uploads

T = TypeVar("T")


class Site:
    """The page of one outbox and its inbox. `cache` is a folder for thumbnails of what is in no batch.

    What belongs to the state is read in one thread, so that other requests are answered meanwhile.
    """

    def __init__(
        self, state: State, files: PictureFiles, previews: Previews, sessions: Sessions, cache: Path
    ) -> None:
        self.state = state
        self.files = files
        self.previews = previews
        self.sessions = sessions
        self.cache = cache
        self.uploads = Uploads(state.watched)
        self.streams = Streams(lambda: self.read(state.read))
        self._reader = ThreadPoolExecutor(1, "style-pipeline page")

    async def read(self, function: Callable[..., T], *arguments: object) -> T:
        """Call a function that reads or changes the state, in the thread for that."""
        return await asyncio.get_running_loop().run_in_executor(self._reader, function, *arguments)

    def stop(self) -> None:
        """End what keeps requests open."""
        self.streams.close()
        self.previews.stop()

    def close(self) -> None:
        self.previews.close()
        self._reader.shutdown(cancel_futures=True)
