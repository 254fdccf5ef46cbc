// Asking the platform to do something, as "console" and for a reason.

/** What the platform refused to do. The message is a sentence that can be shown. */
export class Refusal extends Error {
  constructor(message: string, readonly status: number, readonly details: { message: string; location?: string; value?: unknown }[]) {
    super(message)
  }
}

/**
 * Sends a mutation, provided that what it alters is at revision rev, if one is given; 0 means that nothing may be there.
 * Fails with a sentence that can be shown.
 */
export async function act(method: string, path: string, why: string, body?: unknown, rev?: number): Promise<void> {
  await send(method, path, why, body, rev)
}

/** The same for a mutation whose answer matters. */
export async function send<T>(method: string, path: string, why: string, body?: unknown, rev?: number): Promise<T | undefined> {
  const headers: Record<string, string> = { 'Roadbed-Actor': 'console' }
  if (why) headers['Roadbed-Why'] = encodeURIComponent(why)
  if (body !== undefined) headers['Content-Type'] = 'application/json'
  if (rev === 0) headers['If-None-Match'] = '*'
  else if (rev !== undefined) headers['If-Match'] = `"${rev}"`
  const r = await reach(path, { method, headers, body: body === undefined ? undefined : JSON.stringify(body) })
  await answer(r)
  return r.headers.get('Content-Type')?.includes('json') ? ((await r.json()) as T) : undefined
}

export async function get<T>(path: string, signal?: AbortSignal): Promise<T> {
  return (await read<T>(path, signal)).data
}

/** What is at path, and for how many seconds it could not be changed, if it cannot be now. */
export async function read<T>(path: string, signal?: AbortSignal): Promise<{ data: T; stale?: number }> {
  const r = await reach(path, { signal })
  await answer(r.clone())
  const stale = r.headers.get('X-Config-Stale')
  return { data: (await r.json()) as T, stale: stale === null ? undefined : Number(stale) }
}

/** Why the platform refuses to stream what is at path, in a sentence; empty when it does not, or does not answer. */
export async function refusal(path: string): Promise<string> {
  const stop = new AbortController()
  const r = await reach(path, { signal: stop.signal }).catch(() => undefined)
  try {
    if (r) await answer(r)
    return ''
  } catch (e) {
    return (e as Error).message
  } finally {
    stop.abort()
  }
}

async function reach(path: string, init: RequestInit): Promise<Response> {
  try {
    return await fetch(path, init)
  } catch (e) {
    if (init.signal?.aborted) throw e
    throw new Error('The platform does not answer. Try again when the connection is back.')
  }
}

async function answer(r: Response): Promise<void> {
  if (r.ok) return
  let detail = ''
  let details: Refusal['details'] = []
  try {
    const p = (await r.json()) as { detail?: string; title?: string; message?: string; errors?: Refusal['details'] }
    details = p.errors ?? []
    detail = [p.detail || p.message || p.title, ...details.map(e => e.message + (e.location ? ` (${e.location})` : ''))].filter(Boolean).join('; ')
  } catch {
    // no JSON: the status has to do
  }
  throw new Refusal(detail ? sentence(detail) : `The platform answered ${r.status} ${r.statusText}.`, r.status, details)
}

export function sentence(s: string): string {
  const t = s.trim()
  return t.charAt(0).toUpperCase() + t.slice(1) + (/[.!?]$/.test(t) ? '' : '.')
}
