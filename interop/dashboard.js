// Runs the scripts of Hystrix's dashboard on the messages of a stream, without a browser, and prints what became of
// them: node dashboard.js FOLDER URL MILLISECONDS. FOLDER holds components/; the page around the scripts is made of
// stand-ins for jQuery, d3 and the templates.
'use strict'
const fs = require('fs')
const path = require('path')
const vm = require('vm')

const [folder, url, millis] = process.argv.slice(2)

// anything may be called, and has every property.
function anything() {
  const f = function () { return proxy }
  const proxy = new Proxy(f, {
    get: (_, key) => key === Symbol.toPrimitive ? () => 0 : key === 'length' ? 0 : proxy,
    apply: () => proxy,
  })
  return proxy
}

// monitor loads one script and returns what takes messages, with what it logged and what it showed.
function monitor(script, name) {
  const logged = [], shown = {}
  const jQuery = Object.assign(() => anything(), { get: () => {} })
  const scope = {
    jQuery, $: jQuery, d3: anything(), location: { pathname: '/monitor/monitor.html' }, setInterval: () => {},
    console: { log: text => logged.push(String(text)) }, hystrixTemplateCircuit: 'data', hystrixTemplateCircuitContainer: 'container',
    htmlTemplate: 'data', htmlTemplateContainer: 'container',
    tmpl: (template, data) => { if (template === 'data') shown[data.name] = data; return '' },
  }
  scope.window = scope
  vm.runInNewContext(fs.readFileSync(path.join(folder, 'components', script, script + '.js'), 'utf8'), scope)
  const make = scope[name] // Spring's has no index
  const it = String(make).match(/^function *\(index/) ? new make(0, 'here', {}) : new make('here', {})
  return { take: message => it.eventSourceMessageListener({ data: JSON.stringify(message) }), logged, shown }
}

const monitors = () => ({
  HystrixCommand: monitor('hystrixCommand', 'HystrixCommandMonitor'),
  HystrixThreadPool: monitor('hystrixThreadPool', 'HystrixThreadPoolMonitor'),
})

// messages reads the stream as an EventSource does: only "message" events, their data lines joined.
async function messages() {
  const abort = new AbortController()
  setTimeout(() => abort.abort(), Number(millis))
  const out = []
  try {
    const answer = await fetch(url, { signal: abort.signal, headers: { Accept: 'text/event-stream' } })
    if (answer.status !== 200) throw new Error('status ' + answer.status + ': ' + await answer.text())
    if (!answer.headers.get('content-type').startsWith('text/event-stream')) throw new Error('an EventSource refuses the type ' + answer.headers.get('content-type'))
    let text = ''
    for await (const part of answer.body) {
      text += Buffer.from(part).toString()
      for (let end; (end = text.indexOf('\n\n')) >= 0; text = text.slice(end + 2)) {
        const data = text.slice(0, end).split('\n').filter(l => l.startsWith('data:')).map(l => l.slice(5).replace(/^ /, ''))
        if (data.length > 0) out.push(JSON.parse(data.join('\n')))
      }
    }
  } catch (err) {
    if (err.name !== 'AbortError') throw err
  }
  return out
}

messages().then(all => {
  const report = { messages: all.length, types: {}, logged: [], shown: [], needed: {} }
  const whole = monitors()
  for (const m of all) {
    report.types[m.type] = (report.types[m.type] || 0) + 1
    for (const mon of Object.values(whole)) mon.take(m)
  }
  for (const [type, mon] of Object.entries(whole)) {
    report.logged.push(...mon.logged)
    for (const d of Object.values(mon.shown)) {
      report.shown.push({ type, name: d.name, rate: d.ratePerSecond, ratePerHost: d.ratePerSecondPerHost, hosts: d.reportingHosts, errorPercentage: d.errorPercentage, open: d.isCircuitBreakerOpen, queue: d.propertyValue_queueSizeRejectionThreshold })
    }
    const sample = all.find(m => m.type === type)
    if (!sample) continue
    report.needed[type] = Object.keys(sample).filter(key => {
      const without = { ...sample }
      delete without[key]
      const mon = monitors()[type]
      mon.take(without)
      return mon.logged.some(l => l.startsWith('Failed preProcessData'))
    })
  }
  console.log(JSON.stringify(report))
})
