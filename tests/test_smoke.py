from wsgateway import Gateway
from wsgateway.testing import Client, RecordingListener, serve
async def test_two(anyio_backend: object) -> None:
    rec = RecordingListener()
    g = Gateway(listener=rec, local_access=True)
    async with serve(g) as url:
        async with Client(url) as a, Client(url, "/") as b:
            await a.send("hi")
            assert await b.receive() == "hi"
            assert await a.receive() == "hi"
            print(await g.send({"x": 1}))
            assert await b.receive_json() == {"x": 1}
            from wsgateway.client import asend
            print(await asend(url + "/send", "yo"))
            import httpx
            httpx = httpx.AsyncClient()
                        r = await httpx.get(url + "/info"); print(r.text)
            print((await httpx.get(url + "/metrics")).text[:300])
            print((await httpx.get(url + "/nope")).text, (await httpx.get(url+"/")).text[:200], (await httpx.post(url+"/ws")).text)
            await httpx.aclose()
    print(rec.events)
