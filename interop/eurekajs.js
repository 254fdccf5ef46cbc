// Drives eureka-js-client as a service would, on orders from eurekajs_test.go: one order per line on standard input,
// one answer per line on standard output. What it checks itself ends it with an error.
const assert = require('node:assert');
const readline = require('node:readline');
const { Eureka } = require('eureka-js-client');

const [port, servicePath, name] = process.argv.slice(2);
const quiet = { debug() {}, info() {}, warn: (...a) => console.error(...a), error: (...a) => console.error(...a) };
const client = new Eureka({
  logger: quiet,
  shouldUseDelta: true,
  instance: {
    app: name,
    hostName: 'localhost',
    ipAddr: '127.0.0.1',
    port: { $: 8080, '@enabled': true },
    vipAddress: `${name}.test`,
    statusPageUrl: 'http://localhost:8080/info',
    dataCenterInfo: { '@class': 'com.netflix.appinfo.InstanceInfo$DefaultDataCenterInfo', name: 'MyOwn' },
    metadata: { user_id: '7' },
  },
  eureka: {
    host: '127.0.0.1', port: Number(port), servicePath,
    heartbeatInterval: 200, registryFetchInterval: 3600000, maxRetries: 0, requestRetryDelay: 10,
    filterUpInstances: false,
  },
});

const say = (what, detail = null) => process.stdout.write(`${JSON.stringify({ what, detail })}\n`);
client.on('registered', () => say('registered'));
client.on('heartbeat', () => say('heartbeat'));
client.on('deregistered', () => say('deregistered'));

const orders = {
  start: () => client.start((err) => { assert.ifError(err); say('started'); }),
  fetch: () => client.fetchRegistry((err) => {
    assert.ifError(err);
    const mine = client.getInstancesByAppId(name.toUpperCase());
    for (const i of mine) assert.deepStrictEqual(i.port, { $: 8080, '@enabled': 'true' });
    const byVip = client.getInstancesByVipAddress(`${name}.test`);
    assert.deepStrictEqual(byVip.map((i) => i.hostName), mine.map((i) => i.hostName));
    say('fetched', Object.entries(client.cache.app).flatMap(
      ([app, is]) => is.map((i) => `${app}/${i.instanceId || i.hostName}`)).sort());
  }),
  cache: () => client.fetchRegistry((err) => {
    assert.ifError(err);
    // By VIP: in its cache by app a delta alters the first instance, whichever it tells of.
    say('cache', Object.values(client.cache.vip).flat().map((i) => `${i.app}/${i.instanceId || i.hostName}/${i.status}`).sort());
  }),
  full: () => { client.hasFullRegistry = false; orders.fetch(); },
  stop: () => client.stop((err) => { assert.ifError(err); say('stopped'); process.exitCode = 0; input.close(); }),
};
const input = readline.createInterface({ input: process.stdin });
input.on('line', (line) => { assert.ok(orders[line], `no order ${line}`); orders[line](); });
