// A server for `supervisor exec` that loses nothing when it is replaced: it listens on the socket of --listen, and on
// SIGTERM it answers what it has begun. Without a socket it listens on PORT.
//
//   supervisor exec --listen 8080 --name shop -- node server.js
const http = require('http');

let ending = false;
const server = http.createServer((request, response) => {
  if (ending) response.setHeader('Connection', 'close');
  response.end('hello\n');
});
const { LISTEN_FDS, PORT = 3000 } = process.env;
server.listen(LISTEN_FDS ? { fd: 3 } : { port: PORT, host: '127.0.0.1' });
process.on('SIGTERM', () => {
  ending = true;
  server.close(); // Node ends when the last connection has ended.
});
