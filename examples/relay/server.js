// A server in Node that knows nothing of restarts. It answers with the name of the release that it runs in.
const http = require('node:http');
const path = require('node:path');

const release = path.basename(process.cwd());

http.createServer((request, response) => {
    response.end(`${release}\n`);
}).listen(process.env.PORT, process.env.HOST);
