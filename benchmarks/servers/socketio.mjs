// Socket.IO on Node: an event that is emitted to everybody
import { Server } from "socket.io";

const server = new Server(Number(process.argv[2]), { transports: ["websocket"], perMessageDeflate: false });
server.on("connection", (socket) => {
  socket.on("message", (text) => server.emit("message", text));
});
