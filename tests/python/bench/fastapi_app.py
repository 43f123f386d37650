"""FastAPI with ONNX Runtime, served by uvicorn with uvloop and httptools.

    MODEL=digits.onnx uvicorn fastapi_app:app --workers 2
"""

from fastapi import FastAPI, Request, Response
from fastapi.concurrency import run_in_threadpool
from pydantic import BaseModel

from reference import Reference

app = FastAPI()
model = Reference()


class Picture(BaseModel):
    pixels: list[list[float]]


class Values(BaseModel):
    data: list[float]


# A run of microseconds is cheaper on the event loop than on a thread of the pool.
@app.post("/digits")
async def digits(picture: Picture):
    return model.digit(picture.pixels)


# The other way, for the comparison.
@app.post("/digits/pool")
def digits_in_pool(picture: Picture):
    return model.digit(picture.pixels)


# One of milliseconds is not: `def` is what FastAPI runs in its pool.
@app.post("/tensors")
def tensors(values: Values):
    return {"data": model.run(values.data)[0].tolist()}


@app.post("/tensors/binary")
async def tensors_binary(request: Request):
    answer = await run_in_threadpool(model.run_bytes, await request.body())
    return Response(answer, media_type="application/octet-stream")
