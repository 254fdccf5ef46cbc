// What @grpc/grpc-js can be asked to do, one call after another: node grpc.js TARGET plain|tls prints a line for each.
'use strict'
const grpc = require('@grpc/grpc-js')

const [target, how] = process.argv.slice(2)
const raw = { requestSerialize: b => b, requestDeserialize: b => b, responseSerialize: b => b, responseDeserialize: b => b }
const method = (name, requestStream, responseStream) => ({ path: '/shop.Calls/' + name, requestStream, responseStream, ...raw })
const Calls = grpc.makeGenericClientConstructor({
  Echo: method('Echo', false, false),
  Count: method('Count', false, true),
  Sum: method('Sum', true, false),
  Chat: method('Chat', true, true),
  Sleep: method('Sleep', false, false),
  Fail: method('Fail', false, true),
  Nothing: method('Nothing', false, false),
}, 'Calls')
const credentials = how === 'tls' ? grpc.credentials.createSsl(null, null, null, { rejectUnauthorized: false, checkServerIdentity: () => undefined }) : grpc.credentials.createInsecure()
const named = how === 'tls' ? { 'grpc.ssl_target_name_override': 'localhost' } : {}
const client = new Calls(target, credentials, named)
const packed = new Calls(target, credentials, { ...named, 'grpc.default_compression_algorithm': 2 })
const say = (...words) => console.log(words.join(' '))
const status = s => s.code === 0 ? '0' : `${s.code} ${s.details}`
const each = (metadata, name) => metadata.get(name).flatMap(v => v.split(', ')).join('|') // it joins them
const soon = ms => ({ deadline: Date.now() + ms })

// unary makes a call with one message each way.
function unary (c, name, message, metadata, options) {
  return new Promise(resolve => {
    const got = {}
    const call = c[name](Buffer.from(message), metadata || new grpc.Metadata(), options || soon(60000), (err, reply) => { got.err = err; got.reply = reply })
    call.on('metadata', m => { got.head = m })
    call.on('status', s => { got.status = s; setImmediate(() => resolve(got)) })
  })
}

// stream gathers what comes until the call's end. each is called with every message.
function stream (call, each) {
  return new Promise(resolve => {
    const got = []
    call.on('data', b => { got.push(b.toString()); if (each) each(b) })
    call.on('error', () => {})
    call.on('status', s => setImmediate(() => resolve([got, s])))
  })
}

async function main () {
  const asked = new grpc.Metadata()
  asked.set('x-said', 'one')
  asked.add('x-said', 'two')
  asked.set('x-said-bin', Buffer.from([0, 1, 254, 255]))
  let got = await unary(client, 'Echo', 'hello', asked)
  say('unary', got.reply, status(got.status))
  say('metadata', each(got.head, 'x-heard'), got.head.get('x-heard-bin')[0].toString('hex'), each(got.status.metadata, 'x-after'), got.status.metadata.get('x-after-bin')[0].toString('hex'))
  const large = Buffer.alloc(1 << 20, 'a large message ')
  got = await unary(client, 'Echo', large)
  say('large', got.reply.equals(large), status(got.status))
  got = await unary(packed, 'Echo', large)
  say('packed', got.reply.equals(large), status(got.status))
  got = await unary(client, 'Echo', '')
  say('empty', got.reply.length, status(got.status))

  let [all, end] = await stream(client.Count(Buffer.from('100'), soon(60000)))
  say('server streaming', all.length, all[99], status(end))
  const sum = await new Promise(resolve => {
    const call = client.Sum(soon(60000), (err, reply) => resolve(err ? status(err) : reply.toString()))
    for (let n = 1; n <= 100; n++) call.write(Buffer.from(String(n)))
    call.end()
  })
  say('client streaming', sum)
  let n = 1
  const chat = client.Chat(soon(60000))
  chat.write(Buffer.from('say 1'))
  ;[all, end] = await stream(chat, () => { if (n++ < 50) chat.write(Buffer.from('say ' + n)); else chat.end() }) // each is answered before the next is said
  say('both ways', all.length, all[49], status(end))

  got = await unary(client, 'Sleep', '', null, soon(300))
  say('deadline', got.status.code)
  const one = client.Chat(soon(60000))
  one.write(Buffer.from('say 1'))
  ;[all, end] = await stream(one, () => one.cancel())
  say('cancel', all.length, end.code)
  ;[all, end] = await stream(client.Fail(Buffer.from('0'), soon(60000)))
  say('status', all.length, status(end))
  say('details', end.metadata.get('grpc-status-details-bin')[0].toString('hex'))
  ;[all, end] = await stream(client.Fail(Buffer.from('3'), soon(60000)))
  say('status after messages', all.length, status(end))
  got = await unary(client, 'Nothing', '')
  say('no such method', got.status.code)
  const many = await Promise.all(Array.from({ length: 50 }, (_, i) => unary(client, 'Echo', 'n' + i)))
  say('many at once', many.filter((g, i) => String(g.reply) === 'n' + i).length)
  client.close()
  packed.close()
}
main().catch(err => { console.error(err); process.exit(1) })
