from fastapi import FastAPI

app = FastAPI()


@app.get("/health/live")
async def live() -> dict[str, str]:
    return {"status": "ok"}


@app.get("/v1/hello/{name}")
async def hello(name: str) -> dict[str, str]:
    return {"hello": name}
