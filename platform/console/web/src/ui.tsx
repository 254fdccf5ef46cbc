// Small pieces that several pages use.

import type { ComponentChildren, RefObject } from 'preact'
import { useEffect, useRef, useState } from 'preact/hooks'
import type { Class } from './types'
import { type Instance, type State, zoneLetter } from './model'
import { read as readAt } from './api'
import { ago, exact, span } from './format'

/** A shape for how a service fares: circle, triangle, diamond. */
export function Mark({ kind, size = 10 }: { kind: Class; size?: number }) {
  return (
    <svg class={`mark ${kind}`} width={size} height={size} viewBox="0 0 12 12" aria-hidden="true">
      {kind === 'normal' ? <circle cx="6" cy="6" r="4.6" /> : kind === 'warning' ? <path d="M6 .8 11.6 11H.4z" /> : <path d="M6 0l6 6-6 6-6-6z" />}
    </svg>
  )
}

export const classWord: Record<Class, string> = { normal: 'healthy', warning: 'slow or on fallback', danger: 'failing' }

/** A shape for the state of an instance: disc, ring, cross, bar. */
export function Dot({ state, back }: { state: State; back?: boolean }) {
  return (
    <svg class={`dot ${state}`} width="10" height="10" viewBox="0 0 12 12" aria-hidden="true">
      {state === 'up' && <circle cx="6" cy="6" r={back ? 2.6 : 4.5} />}
      {back && <circle cx="6" cy="6" r="5" class="halo" />}
      {state === 'starting' && <circle cx="6" cy="6" r="4" class="ring" />}
      {state === 'down' && <path d="M2.4 2.4l7.2 7.2M9.6 2.4l-7.2 7.2" class="stroke" />}
      {state === 'disabled' && <path d="M2 6h8" class="stroke" />}
      {state === 'unknown' && <circle cx="6" cy="6" r="2" />}
    </svg>
  )
}

export function Status({ of }: { of: Pick<Instance, 'state' | 'status'> }) {
  return <span class={`status ${of.state}`}><Dot state={of.state} />{of.status}</span>
}

/** The instances of a service as dots, in their zones. */
export function Zones({ zones }: { zones: { name: string; instances: Instance[] }[] }) {
  return (
    <span class="zones" aria-hidden="true">
      {zones.map(z => (
        <span class="zone" key={z.name} title={z.instances.map(i => `${i.id}: ${i.status}${i.back ? ', came back' : ''}`).join('\n')}>
          <b>{zoneLetter(z.name)}</b>
          {z.instances.slice(0, 6).map(i => <Dot key={i.id} state={i.state} back={!!i.back} />)}
          {z.instances.length > 6 && <small>+{z.instances.length - 6}</small>}
        </span>
      ))}
    </span>
  )
}

export function Ago({ at, now }: { at: number | undefined; now: number }) {
  if (at === undefined) return <>–</>
  return <time dateTime={new Date(at).toISOString()} title={exact(at)}>{ago(now - at)}</time>
}

export function Age({ since, now }: { since: number | undefined; now: number }) {
  if (since === undefined) return <>–</>
  return <time dateTime={new Date(since).toISOString()} title={'since ' + exact(since)}>{span(now - since)}</time>
}

export function Empty({ title, children }: { title: string; children?: ComponentChildren }) {
  return <div class="empty"><p><b>{title}</b></p>{children && <p>{children}</p>}</div>
}

export interface Ask {
  title: string
  text: ComponentChildren
  verb: string
  dangerous?: boolean
  fields?: ComponentChildren
  why?: string // a reason that was given already
  done: string // said when it worked
  do: (why: string) => Promise<void | string | Ask> // what to say instead, or what must be asked next
}

/** Asks whether to do something, and why; does it; says what went wrong or that it is done. */
export function Dialog({ ask, next, close, say }: { ask: Ask; next: (ask: Ask) => void; close: () => void; say: (text: string) => void }) {
  const ref = useRef<HTMLDialogElement>(null)
  const [why, setWhy] = useState(ask.why ?? '')
  const [error, setError] = useState('')
  const [busy, setBusy] = useState(false)
  useEffect(() => {
    const back = document.activeElement as HTMLElement | null
    ref.current!.showModal()
    return () => back?.isConnected && back.focus()
  }, [])
  const submit = async (e: Event) => {
    e.preventDefault()
    setBusy(true)
    setError('')
    try {
      const more = await ask.do(why.trim())
      if (more && typeof more !== 'string') {
        next({ ...more, why })
        return
      }
      say(more || ask.done)
      close()
    } catch (e) {
      setError((e as Error).message)
      setBusy(false)
    }
  }
  return (
    <dialog ref={ref} onClose={close} onClick={e => e.target === ref.current && close()} aria-labelledby="ask-title" data-testid="dialog">
      <form onSubmit={submit}>
        <h2 id="ask-title">{ask.title}</h2>
        <div class="ask-text">{ask.text}</div>
        {ask.fields}
        <label class="field">
          <span>Why <small>kept in the change log</small></span>
          <input type="text" value={why} onInput={e => setWhy(e.currentTarget.value)} maxLength={500} required autofocus autocomplete="off" data-testid="why" />
        </label>
        {error && <p class="problem" role="alert">{error}</p>}
        <div class="buttons">
          <button type="button" onClick={close}>Cancel</button>
          <button type="submit" class={ask.dangerous ? 'primary danger' : 'primary'} disabled={busy} data-testid="confirm">{ask.verb}</button>
        </div>
      </form>
    </dialog>
  )
}

/**
 * What the platform answers at path, read again every few milliseconds while somebody looks, and at once when path or
 * after changes. What was read stays when a later question fails.
 */
export function useRead<T>(path: string, every: number, after?: unknown): { data?: T; stale?: number; error: string; again: () => void } {
  const [state, set] = useState<{ path: string; data?: T; stale?: number; error: string }>({ path, error: '' })
  const [asked, ask] = useState(0)
  useEffect(() => {
    if (!path) return
    const stop = new AbortController()
    let timer = 0
    const read = async () => {
      if (!document.hidden) {
        try {
          set({ path, ...(await readAt<T>(path, stop.signal)), error: '' })
        } catch (e) {
          if (stop.signal.aborted) return
          set(old => ({ path, data: old.path === path ? old.data : undefined, error: (e as Error).message }))
        }
      }
      timer = window.setTimeout(read, every)
    }
    read()
    return () => {
      stop.abort()
      clearTimeout(timer)
    }
  }, [path, every, after, asked])
  return { data: state.data, stale: state.stale, error: state.error, again: () => ask(n => n + 1) }
}

/** Says that what is shown cannot be changed now, because those who keep it do not answer. */
export function Stale({ seconds }: { seconds: number | undefined }) {
  if (seconds === undefined) return null
  return <p class="notice" data-testid="stale"><Mark kind="warning" size={12} /><span><b role="alert">Properties cannot be changed now.</b> <span>Where they are kept has not answered for {span(seconds * 1000)}. Processes go on with what they have.</span></span></p>
}

/** The value a while after it stopped changing. */
export function useCalm<T>(value: T, ms: number): T {
  const [calm, set] = useState(value)
  useEffect(() => {
    const t = setTimeout(() => set(value), ms)
    return () => clearTimeout(t)
  }, [value])
  return calm
}

/** A line of recent values, without axes. */
export function Spark({ values, low, kind = 'normal' }: { values: number[]; low?: number; kind?: Class }) {
  const known = values.filter(isFinite)
  if (known.length < 2) return <svg class="spark" aria-hidden="true" />
  const max = Math.max(...known)
  const min = Math.min(low ?? Infinity, ...known)
  const y = (v: number) => (max === min ? 16 : 29 - ((v - min) / (max - min)) * 26)
  const n = Math.max(30, values.length) - 1 // from the left after half a minute
  let path = ''
  let first = 0
  let lastX = 0
  values.forEach((v, i) => {
    if (!isFinite(v)) return
    lastX = ((i + n + 1 - values.length) / n) * 100
    if (!path) first = lastX
    path += `${path ? 'L' : 'M'}${lastX.toFixed(2)} ${y(v).toFixed(2)}`
  })
  return (
    <svg class={`spark ${kind}`} viewBox="0 0 100 32" preserveAspectRatio="none" aria-hidden="true">
      <path class="fill" d={`${path}L${lastX.toFixed(2)} 32L${first.toFixed(2)} 32Z`} />
      <path class="pen" d={path} />
    </svg>
  )
}

export function useWidth<T extends HTMLElement>(): [RefObject<T | null>, number] {
  const ref = useRef<T>(null)
  const [width, setWidth] = useState(0)
  useEffect(() => {
    const see = new ResizeObserver(([e]) => setWidth(Math.floor(e.contentRect.width)))
    see.observe(ref.current!)
    return () => see.disconnect()
  }, [])
  return [ref, width]
}

export function useMedia(query: string): boolean {
  const [on, set] = useState(() => matchMedia(query).matches)
  useEffect(() => {
    const m = matchMedia(query)
    const f = () => set(m.matches)
    m.addEventListener('change', f)
    return () => m.removeEventListener('change', f)
  }, [query])
  return on
}

/** A colour of the style sheet as a canvas takes it, with some of its opacity. */
export function color(name: string, opacity = 1): string {
  const probe = document.createElement('i')
  probe.style.color = `color-mix(in srgb, var(--${name}) ${opacity * 100}%, transparent)`
  document.body.append(probe)
  const seen = getComputedStyle(probe).color
  probe.remove()
  return seen
}
