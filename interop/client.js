// Node's HTTP clients: node client.js undici|fetch|http BASE reads calls from standard input, a line each of method, target,
// body's form (none, length or chunked) and body in base64, and prints what came back as JSON, a line each.
const http = require('http')
const undici = require('undici')

const [, , kind, base] = process.argv

if (base.startsWith('https:')) undici.setGlobalDispatcher(new undici.Agent({ allowH2: true, connect: { rejectUnauthorized: false } }))

async function* inPieces (body) {
  for (let i = 0; i < body.length; i += 10000) yield body.subarray(i, i + 10000)
}

async function viaFetch (fetch, method, target, form, body) {
  const init = { method, headers: form === 'none' ? {} : { 'Content-Type': 'application/octet-stream' } }
  if (form === 'length') init.body = body
  if (form === 'chunked') Object.assign(init, { body: inPieces(body), duplex: 'half' })
  const res = await fetch(base + target, init)
  return { Status: res.status, Headers: Object.fromEntries(res.headers), Body: Buffer.from(await res.arrayBuffer()).toString('base64') }
}

const agent = new http.Agent({ keepAlive: true, maxSockets: 1 })

function viaHTTP (method, target, form, body) {
  return new Promise((resolve, reject) => {
    const headers = form === 'none' ? {} : { 'Content-Type': 'application/octet-stream' }
    if (form === 'length') headers['Content-Length'] = body.length
    if (form === 'chunked') headers['Transfer-Encoding'] = 'chunked'
    const req = http.request(base + target, { method, headers, agent }, (res) => {
      const chunks = []
      res.on('data', (c) => chunks.push(c))
      res.on('error', reject)
      res.on('end', () => {
        const h = {}
        for (const [k, v] of Object.entries(res.headers)) h[k] = Array.isArray(v) ? v.join(', ') : v
        const t = Object.entries(res.trailers).map(([k, v]) => k + ': ' + v).sort().join('\n')
        resolve({ Status: res.statusCode, Headers: { ...h, '(trailers)': t }, Body: Buffer.concat(chunks).toString('base64') })
      })
    })
    req.on('error', reject)
    if (form === 'chunked') for (let i = 0; i < body.length; i += 10000) req.write(body.subarray(i, i + 10000))
    req.end(form === 'length' ? body : undefined)
  })
}

async function main () {
  let text = ''
  for await (const chunk of process.stdin) text += chunk
  for (const line of text.trimEnd().split('\n')) {
    const [method, target, form, encoded] = line.split('\t')
    const body = Buffer.from(encoded, 'base64')
    let out
    try {
      if (kind === 'http') out = await viaHTTP(method, target, form, body)
      else out = await viaFetch(kind === 'undici' ? undici.fetch : fetch, method, target, form, body)
    } catch (e) {
      out = { Status: 0, Headers: {}, Body: Buffer.from(String(e.cause || e)).toString('base64') }
    }
    console.log(JSON.stringify(out))
  }
  process.stdout.write('', () => process.exit(0)) // what is written before is out by then
}
main()
