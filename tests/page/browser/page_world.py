"""A watched folder with its page: a real daemon with a quick engine, and a real `serve`, each a process."""

from __future__ import annotations

import base64
import subprocess
import sys
from collections.abc import Mapping
from typing import Any

from visits import Visit
from watching import Daemon, Watched

DROP = """([place, files]) => {
    const transfer = new DataTransfer();
    for (const [name, data] of files) {
        const bytes = Uint8Array.from(atob(data), letter => letter.charCodeAt(0));
        transfer.items.add(new File([bytes], name, {type: "image/png"}));
    }
    for (const type of ["dragenter", "dragover", "drop"]) {
        place.dispatchEvent(new DragEvent(type, {dataTransfer: transfer, bubbles: true, cancelable: true}));
    }
}"""


class Page:
    """A server of the page. It keeps its address when it is started again."""

    def __init__(self, watched: Watched) -> None:
        self.watched = watched
        self.port = 0
        self.daemons: list[Daemon] = []
        self.start()

    def start(self) -> None:
        config = str(self.watched.folder / "config.yaml")
        command = [sys.executable, "-m", "pipeline", "serve", "--config", config, "--port", str(self.port)]
        self.process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        self.address = line.removeprefix("The page: ").strip()
        assert self.address.startswith("http://"), line
        self.port = int(self.address.partition("/#")[0].rpartition(":")[2])

    def kill(self) -> None:
        self.process.kill()
        self.process.communicate()

    def watch(self, **setup: Any) -> Daemon:
        """Start the daemon; see `daemon_driver.Setup`."""
        self.daemons.append(self.watched.start(**setup))
        return self.daemons[-1]

    def close(self) -> None:
        self.kill()
        for daemon in self.daemons:
            if daemon.process.poll() is None:
                daemon.kill()


def drop(visit: Visit, tile: str, files: Mapping[str, bytes]) -> None:
    """Drop files on a tile, as from a folder's window."""
    place = visit.page.locator("li.tile", has=visit.page.get_by_text(tile, exact=True)).element_handle()
    data = [[name, base64.b64encode(content).decode()] for name, content in files.items()]
    visit.page.evaluate(DROP, [place, data])
