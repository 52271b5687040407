"""socketify: uWebSockets (C++) under Python, with its own publish."""

import sys

from socketify import App, OpCode

app = App()


def message(ws, text, opcode):  # type: ignore[no-untyped-def]
    ws.publish("all", text, OpCode.TEXT)  # in socketify the sender receives it, too


app.ws("/*", {"open": lambda ws: ws.subscribe("all"), "message": message, "compression": 0})
app.listen({"port": int(sys.argv[1]), "host": "127.0.0.1"}, lambda config: None)
app.run()
