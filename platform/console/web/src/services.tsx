// All services with their server groups and instances, and what can be done to them.

import { useState } from 'preact/hooks'
import { type Group, type Instance, type Model, type ServiceView, zoneLetter } from './model'
import { act } from './api'
import { Age, type Ask, classWord, Empty, Mark, Status } from './ui'
import { count, percent, rate, seconds, words } from './format'

export function ServicesPage({ model, ask }: { model: Model; ask: (a: Ask) => void }) {
  const [filter, setFilter] = useState('')
  const f = filter.trim().toLowerCase()
  const hit = (i: Instance) => [i.id, i.app, i.group, i.zone, i.status, i.address].some(s => s.toLowerCase().includes(f))
  const shown = model.services.map(s => ({ ...s, groups: s.groups.map(g => ({ ...g, instances: g.instances.filter(hit) })).filter(g => g.instances.length) }))
    .filter(s => s.groups.length > 0 || s.name.includes(f))
  return (
    <>
      <div class="bar">
        <p class="quiet">{count(model.services.length, 'service')}, {model.up} of {count(model.total, 'instance')} up</p>
        <label class="search"><span class="hidden">Filter by name, zone or status</span><input type="search" placeholder="Filter by name, zone or status" value={filter} onInput={e => setFilter(e.currentTarget.value)} data-testid="filter" /></label>
      </div>
      {model.services.length === 0 && <div class="panel"><Empty title="No service is registered.">Start one with <code>roadbed run --name hello --port 8081 -- python3 -m http.server --bind 127.0.0.1 {'{port}'}</code>, or see a whole one with <code>roadbed up --demo</code>.</Empty></div>}
      {model.services.length > 0 && shown.length === 0 && <div class="panel"><Empty title={`Nothing matches “${filter}”.`} /></div>}
      {shown.map(s => <ServicePanel key={s.name} service={s} now={model.now} ask={ask} />)}
    </>
  )
}

function ServicePanel({ service: s, now, ask }: { service: ServiceView; now: number; ask: (a: Ask) => void }) {
  return (
    <section class="panel service" aria-labelledby={`svc-${s.name}`} data-testid={`service-${s.name}`}>
      <div class="panel-head">
        <h2 id={`svc-${s.name}`}><Mark kind={s.class} /><span class="hidden">{classWord[s.class]}: </span> <a href={`#/services/${encodeURIComponent(s.name)}`}>{s.name}</a> <Chip criticality={s.criticality} /></h2>
        <p class="numbers"><span><b>{rate(s.rps)}</b> requests/s</span><span><b>{percent(s.danger)}</b> errors</span><span><b>{seconds(s.p99)}</b> p99</span><span><b>{s.up}/{s.total}</b> up</span></p>
      </div>
      {s.groups.map(g => <GroupTable key={g.name} group={g} now={now} ask={ask} />)}
    </section>
  )
}

export function Chip({ criticality }: { criticality: string }) {
  return <span class={`chip ${criticality === 'CRITICAL' ? 'critical' : ''}`} title="What customers lose without it">{words(criticality)}</span>
}

export function GroupTable({ group: g, now, ask }: { group: Group; now: number; ask: (a: Ask) => void }) {
  return (
    <>
      <div class="group-head">
        <p>{g.name ? <>Server group <b>{g.name}</b></> : 'In no server group'} {g.disabled && <span class="chip off">disabled: takes no traffic</span>}</p>
        {g.ours && (g.disabled
          ? <button type="button" class="small" data-testid={`enable-${g.name}`} onClick={() => ask({
              title: `Enable ${g.name}?`, text: <p>Its {count(g.instances.length, 'instance')} will take traffic again.</p>, verb: 'Enable', done: `${g.name} is enabled.`,
              do: why => act('POST', `/api/v1/server-groups/${encodeURIComponent(g.name)}/enable`, why),
            })}>Enable</button>
          : <button type="button" class="small" data-testid={`disable-${g.name}`} onClick={() => ask({
              title: `Disable ${g.name}?`, text: <p>Its {count(g.instances.length, 'instance')} keep running but take no traffic until somebody enables the group.</p>, verb: 'Disable', dangerous: true, done: `${g.name} is disabled.`,
              do: why => act('POST', `/api/v1/server-groups/${encodeURIComponent(g.name)}/disable`, why),
            })}>Disable</button>)}
      </div>
      <table class="instances" role="table">
        <caption class="hidden">Instances of {g.name || 'no server group'}</caption>
        <thead>
          <tr><th scope="col" class="c-id">Instance</th><th scope="col" class="c-zone">Zone</th><th scope="col" class="c-status">Status</th><th scope="col" class="c-addr">Address</th><th scope="col" class="num c-n">PID</th><th scope="col" class="num c-n">Restarts</th><th scope="col" class="num c-age">Age</th><th scope="col" class="c-health">Health</th><th scope="col" class="c-act"><span class="hidden">Action</span></th></tr>
        </thead>
        <tbody role="rowgroup">
          {g.instances.map(i => (
            <tr role="row" key={i.id} data-testid={`instance-${i.id}`}>
              <th role="rowheader" scope="row" class="name">{i.id}</th>
              <td role="cell" data-label="Zone"><span class="zone-letter" aria-hidden="true">{zoneLetter(i.zone)}</span>{i.zone}</td>
              <td role="cell" data-label="Status"><Status of={i} /></td>
              <td role="cell" data-label="Address" class="name">{i.address}</td>
              <td role="cell" data-label="PID" class="num">{i.pid ?? '–'}</td>
              <td role="cell" data-label="Restarts" class="num">{i.restarts ?? '–'}</td>
              <td role="cell" data-label="Age" class="num"><Age since={i.since} now={now} /></td>
              <td role="cell" data-label="Health" class="quiet" title={i.probe || undefined}>{i.reason || (i.state === 'up' ? 'passes' : '–')}</td>
              <td role="cell" class="c-act">{i.ours && (
                <button type="button" class="small" aria-label={`Kill ${i.id}`} data-testid={`kill-${i.id}`} onClick={() => ask({
                  title: `Kill ${i.id}?`, text: <p>The process {i.pid ? `${i.pid} ` : ''}gets SIGKILL: no farewell, as when a machine dies. The fleet starts it again.</p>, verb: 'Kill', dangerous: true, done: `${i.id} was killed.`,
                  do: why => act('DELETE', `/api/v1/instances/${encodeURIComponent(i.id)}?signal=KILL`, why),
                })}>Kill</button>)}
              </td>
            </tr>
          ))}
        </tbody>
      </table>
    </>
  )
}
