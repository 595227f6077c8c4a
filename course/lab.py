"""What the course adds to a JupyterLab beside it: a page that is opened and saved stays the same.

The version of Python belongs to what JupyterLab saves with a page, and every reader has another
one. So each sees their own, and on disk stays what was there: git has nothing to say.
"""

import asyncio
import platform

from jupyter_server.services.contents.largefilemanager import AsyncLargeFileManager


class Pages(AsyncLargeFileManager):
    """Files as Jupyter keeps them, without a reader's version of Python in the notebooks."""

    def __init__(self, **settings):
        super().__init__(**settings)
        self.saving = asyncio.Lock()  # half a page, read while it is written, would be set aside

    async def get(self, path, content=True, type=None, format=None, require_hash=False):
        model = await super().get(path, content, type, format, require_hash)
        if content and model["type"] == "notebook":
            language = model["content"]["metadata"].get("language_info", {})
            if language.get("name") == "python" and "version" in language:
                language["version"] = platform.python_version()
        return model

    async def save(self, model, path=""):
        async with self.saving:
            if model.get("type") == "notebook" and await self.file_exists(path):
                stored = (await super().get(path, type="notebook"))["content"]["metadata"]
                language = model["content"]["metadata"].get("language_info", {})
                if language.get("version") == platform.python_version():
                    language |= stored.get("language_info", {})
            return await super().save(model, path)
