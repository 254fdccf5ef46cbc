// A server that says what it understood of each request: node echo.js PORT.
const http = require('http')

const server = http.createServer({ requireHostHeader: true }, (req, res) => {
  const chunks = []
  req.on('data', (c) => chunks.push(c))
  req.on('end', () => {
    const seen = { Method: req.method, Target: req.url, Host: req.headers.host, Body: Buffer.concat(chunks).toString('base64') }
    res.writeHead(200, { 'X-Echo': Buffer.from(JSON.stringify(seen)).toString('base64'), 'Content-Length': 3 })
    res.end('ok\n')
  })
})
server.listen(Number(process.argv[2]), '127.0.0.1')
