// A server for `supervisor exec` that loses nothing when it is replaced: it listens on the socket of --listen, and on
// SIGTERM it answers what it has begun. Without a socket it listens on PORT.
//
//   supervisor exec --listen 8080 --name shop -- node server.js
const http = require('http');
const net = require('net');

let ending = false;
// Connections without a request, as browsers open them in advance. Node does not count them as idle.
const silent = new Set();
const server = http.createServer((request, response) => {
  silent.delete(request.socket);
  if (ending) response.setHeader('Connection', 'close');
  response.end('hello\n');
});
server.on('connection', (socket) => {
  silent.add(socket);
  socket.on('close', () => silent.delete(socket));
});
const { LISTEN_FDS, PORT = 3000 } = process.env;
server.listen(LISTEN_FDS ? { fd: 3 } : { port: PORT, host: '127.0.0.1' });

// Not `server.close()`: that closes idle connections at once, and resets one whose next request is just arriving. So a
// client gets a second for a last request, which is answered with `Connection: close`.
process.on('SIGTERM', () => {
  ending = true;
  net.Server.prototype.close.call(server);
  setTimeout(() => {
    server.closeIdleConnections();
    for (const socket of silent) socket.destroy();
  }, 1000);
});
