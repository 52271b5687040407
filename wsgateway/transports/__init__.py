"""How bytes reach one client, on the gateway's own server or over plain ASGI. Does not know what a message means."""
