// WebSocket by the package ws. node websocket.js serve PORT echoes; node websocket.js try URL does what clients do and prints
// what came of it, a line of JSON for each, which holds nothing that differs from run to run.
const { WebSocket, WebSocketServer } = require('ws')

if (process.argv[2] === 'serve') {
  const server = new WebSocketServer({
    host: '127.0.0.1',
    port: Number(process.argv[3]),
    maxPayload: 32 << 20,
    perMessageDeflate: { threshold: 100 },
    handleProtocols: (asked) => asked.has('chat') ? 'chat' : false
  })
  server.on('connection', (ws, req) => {
    ws.on('error', () => {})
    if (req.url === '/push') for (let i = 0; i < 100; i++) ws.send('pushed ' + i)
    ws.on('message', (data, binary) => {
      const text = binary ? '' : data.toString()
      if (text.startsWith('close ')) ws.close(Number(text.slice(6)), 'as asked')
      else if (text === 'terminate') ws.terminate()
      else if (text === 'pings') for (let i = 0; i < 10; i++) ws.ping('ping ' + i)
      else if (text === 'fragments') {
        for (let i = 0; i < 50; i++) ws.send('part ' + i + ';', { fin: i === 49 })
      } else if (text === 'bad') ws._socket.write(Buffer.from([0x81, 0x02, 0xc3, 0x28])) // no UTF-8
      else if (text === 'masked') ws._socket.write(Buffer.from([0x81, 0x81, 1, 2, 3, 4, 0x61])) // as servers must not
      else ws.send(data, { binary })
    })
  })
} else {
  main(process.argv[3]).then(() => process.stdout.write('', () => process.exit(0)))
}

function say (what, ...detail) {
  console.log(JSON.stringify([what, ...detail]))
}

// conversation opens a connection, has script speak, and says everything that comes until it closes.
function conversation (name, url, options, script) {
  return new Promise((resolve) => {
    const got = []
    const ws = new WebSocket(url, options.protocols || [], { perMessageDeflate: options.deflate || false, maxPayload: 32 << 20, ...options.more })
    const timer = setTimeout(() => { got.push('nothing more for 10 s'); ws.terminate() }, 10000)
    ws.on('upgrade', (res) => got.push(['upgrade', res.statusCode, res.headers['sec-websocket-extensions'] || '', res.headers['sec-websocket-protocol'] || '']))
    ws.on('unexpected-response', (req, res) => { got.push(['answer', res.statusCode]); clearTimeout(timer); say(name, got); resolve(); req.destroy() })
    ws.on('open', () => script(ws))
    ws.on('message', (data, binary) => {
      got.push([binary ? 'binary' : 'text', data.length, data.length > 60 ? require('crypto').createHash('sha1').update(data).digest('hex') : data.toString('latin1')])
      if (options.until && got.filter((g) => g[0] === 'text' || g[0] === 'binary').length === options.until) ws.close(1000, 'enough')
    })
    ws.on('ping', (data) => got.push(['ping', data.toString()]))
    ws.on('pong', (data) => { got.push(['pong', data.toString()]); if (options.pongs && got.filter((g) => g[0] === 'pong').length === options.pongs) ws.close(1000) })
    ws.on('error', (e) => got.push(['error', e.code || e.message]))
    ws.on('close', (code, reason) => { clearTimeout(timer); got.push(['close', code, reason.toString()]); say(name, got); resolve() })
  })
}

async function main (url) {
  for (const size of [0, 1, 125, 126, 127, 128, 65535, 65536, 65537, 1 << 20, 16 << 20]) {
    await conversation('echo of ' + size, url, { until: 2 }, (ws) => { ws.send(Buffer.alloc(size, 'b')); ws.send('t'.repeat(size)) })
  }
  await conversation('deflate', url, { until: 3, deflate: true }, (ws) => { ws.send('x'.repeat(100000)); ws.send('short'); ws.send(Buffer.alloc(1 << 20, 'z')) })
  await conversation('deflate without context', url, { until: 2, deflate: { serverNoContextTakeover: true, clientNoContextTakeover: true } }, (ws) => { ws.send('x'.repeat(1000)); ws.send('x'.repeat(1000)) })
  await conversation('deflate with a small window', url, { until: 1, deflate: { serverMaxWindowBits: 10, clientMaxWindowBits: 10 } }, (ws) => ws.send('x'.repeat(1000)))
  await conversation('protocol', url, { until: 1, protocols: ['other', 'chat'] }, (ws) => ws.send('hi'))
  await conversation('no protocol in common', url, { until: 1, protocols: ['other'] }, (ws) => ws.send('hi'))
  await conversation('a query and fields', url + '?a=b%20c', { until: 1, more: { headers: { Cookie: 'a=b', Origin: 'http://x.test' } } }, (ws) => ws.send('hi'))
  await conversation('pushed at once', url + 'push', { until: 100 }, () => {})
  await conversation('a thousand in a row', url, { until: 1000 }, (ws) => { for (let i = 0; i < 1000; i++) ws.send('message ' + i) })
  await conversation('fragments', url, { until: 1 }, (ws) => { for (let i = 0; i < 100; i++) ws.send('f' + i + ' ', { fin: i === 99 }) })
  await conversation('empty fragments', url, { until: 1 }, (ws) => { ws.send('', { fin: false }); ws.send('', { fin: false }); ws.send('x', { fin: true }) })
  await conversation('a ping among fragments', url, { until: 1 }, (ws) => { ws.send('a', { fin: false }); ws.ping('between'); ws.send('b', { fin: true }) })
  await conversation('fragments from the server', url, { until: 1 }, (ws) => ws.send('fragments'))
  await conversation('pings', url, { pongs: 10 }, (ws) => { for (let i = 0; i < 10; i++) ws.ping('p' + i) })
  await conversation('a ping of 125 bytes', url, { pongs: 1 }, (ws) => ws.ping('p'.repeat(125)))
  await conversation('pings from the server', url, {}, (ws) => { ws.send('pings'); ws.send('close 1000') })
  for (const code of [1000, 1001, 1003, 1007, 1008, 1009, 1010, 1011, 1012, 1013, 1014, 3000, 3999, 4000, 4999]) {
    await conversation('the client closes with ' + code, url, {}, (ws) => ws.close(code, 'bye ' + code))
    await conversation('the server closes with ' + code, url, {}, (ws) => ws.send('close ' + code))
  }
  await conversation('a close without a code', url, {}, (ws) => ws.close())
  await conversation('a reason of 123 bytes', url, {}, (ws) => ws.close(1000, 'r'.repeat(123)))
  await conversation('the server breaks off', url, {}, (ws) => ws.send('terminate'))
  await conversation('no UTF-8 from the server', url, {}, (ws) => ws.send('bad'))
  await conversation('masked by the server', url, {}, (ws) => ws.send('masked'))
  const raw = (name, ...bytes) => conversation(name, url, {}, (ws) => ws._socket.write(Buffer.from(bytes)))
  const m = [0, 0, 0, 0] // a mask that changes nothing
  await raw('no UTF-8 in a text', 0x81, 0x82, ...m, 0xc3, 0x28)
  await raw('a text that is not masked', 0x81, 0x01, 0x61)
  await raw('a reserved opcode', 0x83, 0x80, ...m)
  await raw('a reserved opcode of control', 0x8b, 0x80, ...m)
  await raw('a reserved bit', 0xc1, 0x81, ...m, 0x61)
  await raw('a ping in fragments', 0x09, 0x80, ...m)
  await raw('a ping of 126 bytes', 0x89, 0xfe, 0, 126, ...m, ...Array(126).fill(0x61))
  await raw('a continuation of nothing', 0x80, 0x81, ...m, 0x61)
  await raw('a text within fragments', 0x01, 0x81, ...m, 0x61, 0x81, 0x81, ...m, 0x61)
  await raw('a close with one byte', 0x88, 0x81, ...m, 0x03)
  await raw('a close with code 999', 0x88, 0x82, ...m, 0x03, 0xe7)
  await raw('a close with code 1005', 0x88, 0x82, ...m, 0x03, 0xed)
  await raw('a close with code 5000', 0x88, 0x82, ...m, 0x13, 0x88)
  await raw('a close with a reason of no UTF-8', 0x88, 0x84, ...m, 0x03, 0xe8, 0xc3, 0x28)
  await raw('a length with its highest bit', 0x82, 0xff, 0x80, 0, 0, 0, 0, 0, 0, 1, ...m)
  await raw('a message that is too large', 0x82, 0xff, 0, 0, 0, 0, 0x10, 0, 0, 0, ...m)
}
