// Many WebSockets by the package ws: node sockets.js URL NUMBER PAUSE opens them, says "open", and has each send a numbered
// message every PAUSE milliseconds, which the other side is to echo. For each line of its input it prints what came of it so far
// as JSON, and once its input ends, when all echoes are there, for the last time. Later sockets of the same process take other addresses of this machine.
const { WebSocket } = require('ws')

const [, , url, number, pause] = process.argv
const each = 500 // sockets from one address
const sockets = []
const sum = { open: 0, sent: 0, echoed: 0, wrong: 0, closed: 0, why: {} }
let ending = false

function open (i) {
  return new Promise((resolve, reject) => {
    const ws = new WebSocket(url, { perMessageDeflate: false, localAddress: '127.0.1.' + (1 + Math.floor(i / each)) })
    let next = 0
    ws.expected = 0
    ws.talk = () => { ws.send(i + ' ' + next++); ws.expected++; sum.sent++ }
    ws.on('open', () => { sum.open++; resolve(ws) })
    ws.on('message', (data) => {
      sum.echoed++
      if (data.toString() !== i + ' ' + (next - ws.expected)) sum.wrong++
      ws.expected--
    })
    const gone = (why) => {
      if (ending) return
      sum.closed++
      sum.why[why] = (sum.why[why] || 0) + 1
      reject(new Error(why))
    }
    ws.on('error', (e) => gone(e.code || e.message))
    ws.on('close', (code) => gone('close ' + code))
  })
}

async function main () {
  for (let i = 0; i < Number(number);) {
    const some = []
    for (; some.length < 50 && i < Number(number); i++) some.push(open(i))
    sockets.push(...await Promise.all(some))
  }
  for (const ws of sockets) {
    setTimeout(() => { ws.talk(); ws.timer = setInterval(() => { if (ws.readyState === WebSocket.OPEN) ws.talk() }, Number(pause)) }, Math.random() * pause)
  }
  console.log('open')
  process.stdin.setEncoding('utf8')
  process.stdin.on('data', (lines) => { for (let n = lines.split('\n').length; n > 1; n--) console.log(JSON.stringify(sum)) })
  await new Promise((resolve) => process.stdin.on('end', resolve))
  for (const ws of sockets) clearInterval(ws.timer)
  for (let left = 200; left > 0 && sum.echoed < sum.sent; left--) await new Promise((resolve) => setTimeout(resolve, 50))
  ending = true
  process.stdout.write(JSON.stringify(sum) + '\n', () => process.exit(0))
}
main().catch((e) => { console.log(JSON.stringify({ ...sum, failed: String(e) })); process.exit(1) })
