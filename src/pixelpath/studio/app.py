"""The studio's server: Starlette routes over galleries and a maker, for one user on this machine.

Every request needs the token of the address (afterwards a cookie), and a host name of this machine, so that no other page can
ask.
"""

from __future__ import annotations

import asyncio
import json
import secrets
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from importlib import resources
from pathlib import Path
from typing import Any

from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.middleware import Middleware
from starlette.middleware.base import BaseHTTPMiddleware
from starlette.requests import Request
from starlette.responses import FileResponse, JSONResponse, PlainTextResponse, RedirectResponse, Response, StreamingResponse
from starlette.routing import Route

from pixelpath.errors import UserError
from pixelpath.reports.page import document_of
from pixelpath.reports.style import script, stylesheet
from pixelpath.runs.titles import titles
from pixelpath.studio import files, watching
from pixelpath.studio.gallery import Gallery
from pixelpath.studio.making import Event, Job, Maker

HOSTS = ("127.0.0.1", "localhost", "::1")
COOKIE = "pixelpath-studio"
HEADER = "x-studio"  # which no foreign page can send
POLICY = "default-src 'self'; style-src 'self' 'unsafe-inline'; img-src 'self' data: blob:; frame-ancestors 'none'"
SCRIPTS = ("common.js", "jobs.js", "studio.js", "editor.js", "training.js")
PARTS = {"studio.css": "text/css", **dict.fromkeys(SCRIPTS, "text/javascript")}
BEAT = 15.0  # seconds between signs that a stream of events is open


class Studio:
    """What the routes share: the galleries of the runs, who makes images, and who listens."""

    def __init__(self, runs: Sequence[Path], token: str) -> None:
        self.galleries = [Gallery(path, number) for number, path in enumerate(runs)]
        self.names = titles(runs)
        self.token, self.listeners = token, set[asyncio.Queue[Event]]()
        self.loop: asyncio.AbstractEventLoop | None = None
        self.maker = Maker(self.tell)

    def tell(self, event: Event) -> None:
        """Give everybody who listens an event; from any thread."""
        if self.loop is not None:
            self.loop.call_soon_threadsafe(lambda: [listener.put_nowait(event) for listener in self.listeners])

    def gallery(self, request: Request) -> Gallery:
        """That of the run which the address names; UserError if there is none."""
        number = request.path_params["run"]
        if not 0 <= number < len(self.galleries):
            raise UserError(f"There is no run {number}: load the page again.", "run")
        return self.galleries[number]


def create_app(runs: Sequence[Path], token: str | None = None) -> Starlette:
    """The application for these runs; its `state.studio` has the token that the address must hold."""
    studio = Studio(runs, token or secrets.token_urlsafe(16))

    @asynccontextmanager
    async def living(app: Starlette) -> AsyncIterator[None]:
        studio.loop = asyncio.get_running_loop()
        yield
        studio.maker.close()

    routes = [
        Route("/", _page),
        Route("/part/{name}", _part),
        Route("/api/runs", _told(_runs)),
        Route("/api/events", _events),
        Route("/api/stop/{job:int}", _told(_stop), methods=["POST"]),
        Route("/api/runs/{run:int}", _told(_run)),
        Route("/api/runs/{run:int}/items", _told(_items)),
        Route("/api/runs/{run:int}/make", _told(_make), methods=["POST"]),
        Route("/api/runs/{run:int}/take/{name}", _told(_take), methods=["POST"]),
        Route("/api/runs/{run:int}/conditions", _told(_conditions)),
        Route("/api/runs/{run:int}/conditions/{name}", _told(_take_condition), methods=["POST"]),
        Route("/api/runs/{run:int}/conditions/{id}.png", _told(_condition_picture)),
        Route("/api/runs/{run:int}/training", _told(_training)),
        Route("/api/runs/{run:int}/previews/{name}", _told(_preview)),
        Route("/api/runs/{run:int}/download", _told(_download)),
        Route("/api/runs/{run:int}/sheet", _told(_sheet)),
        Route("/api/runs/{run:int}/bar", _told(_bar)),
        Route("/api/runs/{run:int}/items/{id}.png", _told(_picture)),
        Route("/api/runs/{run:int}/items/{id}/values", _told(_values)),
        Route("/api/runs/{run:int}/items/{id}/favourite", _told(_favourite), methods=["POST"]),
    ]
    app = Starlette(routes=routes, middleware=[Middleware(BaseHTTPMiddleware, dispatch=_guard)], lifespan=living)
    app.state.studio = studio
    return app


Answer = Callable[[Studio, Request], Any]


def _told(answer: Answer) -> Callable[[Request], Awaitable[Response]]:
    """A route whose answer is worked out in a thread; a user's mistake is a sentence with status 400."""

    async def route(request: Request) -> Response:
        body = await request.body()
        request.state.body = body
        try:
            found = await run_in_threadpool(answer, request.app.state.studio, request)
        except UserError as error:
            return JSONResponse({"message": str(error).replace("`", "")}, status_code=400)
        return found if isinstance(found, Response) else JSONResponse(found)

    return route


async def _guard(request: Request, call_next: Callable[[Request], Awaitable[Response]]) -> Response:
    """Refuse other hosts, requests without the token, and orders of other pages."""
    studio: Studio = request.app.state.studio
    given = request.query_params.get("token") or request.cookies.get(COOKIE) or ""
    if request.url.hostname not in HOSTS:
        return PlainTextResponse("The studio answers on this machine alone.", status_code=403)
    if not secrets.compare_digest(given.encode(), studio.token.encode()):
        return PlainTextResponse("Open the address that pixelpath studio printed, with its token.", status_code=403)
    if request.method == "POST" and HEADER not in request.headers:
        return PlainTextResponse("Only the studio's own page may ask for this.", status_code=403)
    response = await call_next(request)
    response.headers["content-security-policy"] = POLICY
    response.headers["referrer-policy"] = "no-referrer"
    response.headers["x-content-type-options"] = "nosniff"
    response.headers.setdefault("cache-control", "no-store")
    return response


async def _page(request: Request) -> Response:
    if "token" in request.query_params:
        response: Response = RedirectResponse("/", status_code=303)
        response.set_cookie(COOKIE, request.app.state.studio.token, httponly=True, samesite="strict")
        return response
    return Response(_static("index.html"), media_type="text/html")


async def _part(request: Request) -> Response:
    name = request.path_params["name"]
    made = {"page.css": (stylesheet, "text/css"), "page.js": (script, "text/javascript")}
    if name in made:
        content, kind = made[name]
        return Response(content(), media_type=kind)
    if name not in PARTS:
        return PlainTextResponse("There is no such part of the page.", status_code=404)
    return Response(_static(name), media_type=PARTS[name])


def _static(name: str) -> str:
    return (resources.files("pixelpath.studio") / "static" / name).read_text(encoding="utf-8")


async def _events(request: Request) -> Response:
    """A stream of server-sent events, for as long as the page listens."""
    studio: Studio = request.app.state.studio
    listener = asyncio.Queue[Event]()

    async def stream() -> AsyncIterator[str]:
        studio.listeners.add(listener)
        try:
            yield "retry: 2000\n\n"
            while True:
                try:
                    yield f"data: {json.dumps(await asyncio.wait_for(listener.get(), BEAT))}\n\n"
                except TimeoutError:
                    yield ": here\n\n"
        finally:
            studio.listeners.discard(listener)

    return StreamingResponse(stream(), media_type="text/event-stream")


def _runs(studio: Studio, request: Request) -> Any:
    return [{"number": number, "name": name} for number, name in enumerate(studio.names)]


def _run(studio: Studio, request: Request) -> Any:
    """What can be asked of the run; before its first checkpoint, and for stage one, that it cannot be sampled."""
    gallery = studio.gallery(request)
    about = {"number": gallery.number, "name": studio.names[gallery.number], "path": str(gallery.path)}
    recipe = document_of(gallery.path / "recipe.json") or {}
    try:
        run = gallery.run
        run.denoiser  # noqa: B018 (stage one has none)
    except UserError as error:
        return {**about, "recipe": recipe.get("name"), "sampled": False, "why": str(error).replace("`", "")}
    usual = run.recipe.usual_sampling
    return {
        **about,
        "recipe": run.recipe.name,
        "sampled": True,
        "shape": run.shape,
        "classes": run.classes,
        "columns": [column.name for column in run.conditions.columns],
        "cond_image": bool(run.conditions.other),
        "one_step": run.recipe.is_one_step,
        "guidance": usual.guidance if run.denoiser.backbone.conditional else None,
        "transparent": run.metadata.alpha != "",
        "south_up": run.metadata.south_up,
    }


def _items(studio: Studio, request: Request) -> Any:
    return [item.about() for item in studio.gallery(request).read()]


def _make(studio: Studio, request: Request) -> Any:
    gallery, job = studio.gallery(request), Job.from_json(_json(request))
    return {"job": studio.maker.ask(gallery, job)}


def _take(studio: Studio, request: Request) -> Any:
    items = studio.gallery(request).take(request.path_params["name"], request.state.body)
    return [item.about() for item in items]


def _conditions(studio: Studio, request: Request) -> Any:
    """The first condition images of the run's own data, or why they cannot be had: its data may be elsewhere by now."""
    gallery = studio.gallery(request)
    try:
        return {"items": [image.about() for image in gallery.cond_images.own(gallery.run)], "why": ""}
    except UserError as error:
        return {"items": [], "why": str(error).replace("`", "")}


def _take_condition(studio: Studio, request: Request) -> Any:
    gallery = studio.gallery(request)
    return [image.about() for image in gallery.cond_images.take(gallery.run, request.path_params["name"], request.state.body)]


def _condition_picture(studio: Studio, request: Request) -> Any:
    gallery = studio.gallery(request)
    return _picture_of(files.cond_picture(gallery, request.path_params["id"]))


def _stop(studio: Studio, request: Request) -> Any:
    studio.maker.stop(request.path_params["job"])
    return {}


def _training(studio: Studio, request: Request) -> Any:
    return watching.watched(studio.gallery(request).path)


def _preview(studio: Studio, request: Request) -> Any:
    return FileResponse(watching.preview(studio.gallery(request).path, request.path_params["name"]))


def _bar(studio: Studio, request: Request) -> Any:
    gallery = studio.gallery(request)
    gallery.read()
    return files.colour_bar(gallery)


def _picture(studio: Studio, request: Request) -> Any:
    gallery = studio.gallery(request)
    return _picture_of(files.picture(gallery, gallery.item(request.path_params["id"])))


def _values(studio: Studio, request: Request) -> Any:
    gallery = studio.gallery(request)
    return files.values(gallery, gallery.item(request.path_params["id"]))


def _favourite(studio: Studio, request: Request) -> Any:
    return studio.gallery(request).favour(request.path_params["id"], bool(_json(request).get("on"))).about()


def _download(studio: Studio, request: Request) -> Any:
    gallery = studio.gallery(request)
    return _sent(files.native(gallery, _chosen(gallery, request)))


def _sheet(studio: Studio, request: Request) -> Any:
    gallery = studio.gallery(request)
    columns = request.query_params.get("columns", "")
    return _sent(files.sheet(gallery, _chosen(gallery, request), int(columns) if columns.isdecimal() and int(columns) else None))


def _chosen(gallery: Gallery, request: Request) -> list[Any]:
    return [gallery.item(id) for id in request.query_params.get("ids", "").split(",") if id]


def _picture_of(content: bytes) -> Response:
    return Response(content, media_type="image/png", headers={"cache-control": "max-age=86400"})


def _sent(download: files.Download) -> Response:
    disposition = f'attachment; filename="{download.name}"'
    return Response(download.content, media_type=download.kind, headers={"content-disposition": disposition})


def _json(request: Request) -> dict[str, Any]:
    try:
        found = json.loads(request.state.body or b"{}")
    except ValueError as error:
        raise UserError(f"What is asked for is no JSON ({error}): load the page again.") from error
    if not isinstance(found, dict):
        raise UserError("What is asked for is no JSON object: load the page again.")
    return found
