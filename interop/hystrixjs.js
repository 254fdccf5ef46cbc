// An app that calls through hystrixjs and streams what became of its calls: node hystrixjs.js. It takes orders line by
// line, "COMMAND OUTCOME TIMES", with the outcomes success, failure and timeout.
'use strict'
const http = require('http')
const readline = require('readline')
const { commandFactory, hystrixSSEStream } = require('hystrixjs')

const say = (What, Detail) => console.log(JSON.stringify({ What, Detail }))

const server = http.createServer((request, response) => {
  if (request.url !== '/api/hystrix.stream') {
    response.writeHead(404)
    response.end()
    return
  }
  response.writeHead(200, { 'Content-Type': 'text/event-stream;charset=UTF-8', 'Cache-Control': 'no-cache, no-store, max-age=0, must-revalidate' })
  const reading = hystrixSSEStream.toObservable(500).subscribe(message => response.write('data: ' + message + '\n\n'))
  response.on('close', () => reading.unsubscribe())
})
server.listen(0, '127.0.0.1', () => say('ready', ['http://127.0.0.1:' + server.address().port]))

const outcomes = {
  success: () => Promise.resolve(1),
  failure: () => Promise.reject(new Error('broken')),
  timeout: () => new Promise(() => {}),
}

readline.createInterface({ input: process.stdin }).on('line', async line => {
  const [name, outcome, times] = line.split(' ')
  const command = commandFactory.getOrCreate(name, 'Group' + name).timeout(150).run(what => outcomes[what]()).build()
  for (let i = 0; i < Number(times); i++) await command.execute(outcome).catch(() => {})
  say('done', [])
}).on('close', () => process.exit(0))
