// A service of somebody's in Node, and its calls through a sidecar. Run by go test:
//   node sidecar.js PORT GRPCPORT SIDECAR
'use strict';
const http = require('http');
const zlib = require('zlib');
const readline = require('readline');
const grpc = require('@grpc/grpc-js');
const undici = require('undici');

const [port, grpcPort, sidecar] = process.argv.slice(2);
const say = (what, ...detail) => console.log(JSON.stringify({ What: what, Detail: detail.map(String) }));

http.createServer((q, r) => {
  const url = new URL(q.url, 'http://x');
  switch (url.pathname) {
    case '/healthcheck':
      return r.end();
    case '/packed': // gzip for who asks for it
      r.setHeader('Content-Type', 'text/plain');
      if (!/gzip/.test(q.headers['accept-encoding'] || '')) return r.end('plain');
      r.setHeader('Content-Encoding', 'gzip');
      return r.end(zlib.gzipSync('node says hello'));
    case '/headers':
      r.setHeader('Content-Type', 'application/json');
      return r.end(JSON.stringify(q.headers));
    case '/upload': {
      let n = 0;
      q.on('data', (b) => { n += b.length; });
      q.on('end', () => r.end(`${n} ${q.headers['transfer-encoding']}`));
      return;
    }
  }
  r.end('node says hello');
}).listen(Number(port), '127.0.0.1', () => {
  const server = new grpc.Server();
  const raw = { requestSerialize: (b) => b, requestDeserialize: (b) => b, responseSerialize: (b) => b, responseDeserialize: (b) => b };
  const methods = {
    Greet: { path: '/shop.Greeter/Greet', requestStream: false, responseStream: false, ...raw },
    Count: { path: '/shop.Greeter/Count', requestStream: true, responseStream: true, ...raw },
  };
  server.addService(methods, {
    Greet: (call, done) => {
      if (call.request.toString() === 'nobody') return done({ code: grpc.status.NOT_FOUND, details: 'who is that' });
      done(null, Buffer.from(`hello ${call.request}`));
    },
    Count: (call) => { // each is answered before the next comes
      let n = 0;
      call.on('data', (b) => call.write(Buffer.from(`${++n}:${b}`)));
      call.on('end', () => call.end());
    },
  });
  const Greeter = grpc.makeGenericClientConstructor(methods, 'Greeter');
  const proxied = new undici.ProxyAgent(`http://${sidecar}`); // it opens tunnels
  server.bindAsync(`127.0.0.1:${grpcPort}`, grpc.ServerCredentials.createInsecure(), (err) => {
    if (err) throw err;
    say('ready');
  });

  const orders = {
    async get(url) {
      const r = await undici.fetch(url, { dispatcher: proxied });
      say('got', r.status, r.headers.get('content-encoding'), await r.text());
    },
    async upload(url, size) {
      let left = Number(size);
      const piece = Buffer.alloc(1 << 20);
      const body = new ReadableStream({
        pull(c) {
          if (left <= 0) return c.close();
          left -= piece.length;
          c.enqueue(piece);
        },
      }, { highWaterMark: 1 });
      const r = await undici.fetch(url, { method: 'POST', body, duplex: 'half', dispatcher: proxied, headers: { 'X-Ipc-Timeout-Ms': '240000' } });
      say('uploaded', r.status, await r.text());
    },
    // how: host asks the sidecar as if it were the service, tunnel has it open one
    async grpc(how, name) {
      if (how === 'tunnel') process.env.grpc_proxy = `http://${sidecar}`;
      const client = how === 'tunnel'
        ? new Greeter('greeter:80', grpc.credentials.createInsecure())
        : new Greeter(sidecar, grpc.credentials.createInsecure(), { 'grpc.default_authority': 'greeter' });
      delete process.env.grpc_proxy;
      await new Promise((done) => client.Greet(Buffer.from(name), { deadline: Date.now() + 10000 }, (err, answer) => {
        say('greeted', err ? err.code : 0, err ? err.details : answer);
        done();
      }));
      client.close();
    },
    async stream(n) {
      const client = new Greeter(sidecar, grpc.credentials.createInsecure(), { 'grpc.default_authority': 'greeter' });
      const call = client.Count();
      const got = [];
      await new Promise((done, fail) => {
        call.on('error', fail);
        call.on('data', (b) => {
          got.push(b.toString());
          if (got.length < Number(n)) call.write(Buffer.from('x')); else call.end();
        });
        call.on('end', done);
        call.write(Buffer.from('x'));
      });
      client.close();
      say('counted', ...got);
    },
  };
  readline.createInterface({ input: process.stdin }).on('line', (line) => {
    const [what, ...args] = line.split(' ');
    orders[what](...args).catch((err) => say('failed', err, err.cause));
  });
});
