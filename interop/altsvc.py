"""altsvc.py URL FILE has curl ask by HTTP/2, note in FILE what alternatives the answer tells of, and ask the one for HTTP/3."""

import sys

from curl_cffi import Curl, CurlHttpVersion, CurlInfo, CurlOpt

url, known = sys.argv[1:]


def ask(url, version):
    c = Curl()
    c.setopt(CurlOpt.URL, url.encode())
    c.setopt(CurlOpt.HTTP_VERSION, version)
    c.setopt(CurlOpt.SSL_VERIFYPEER, 0)
    c.setopt(CurlOpt.SSL_VERIFYHOST, 0)
    c.setopt(CurlOpt.ALTSVC_CTRL, 16 | 32)  # of HTTP/2 and 3
    c.setopt(CurlOpt.ALTSVC, known.encode())
    c.setopt(CurlOpt.WRITEFUNCTION, lambda data: len(data))
    c.setopt(CurlOpt.TIMEOUT, 20)
    c.perform()
    print(c.getinfo(CurlInfo.RESPONSE_CODE), "by HTTP", {2: "1.1", 3: "2", 30: "3"}[c.getinfo(CurlInfo.HTTP_VERSION)])
    c.close()


ask(url, CurlHttpVersion.V2TLS)
(line,) = [line for line in open(known) if not line.startswith("#")]
_, _, _, protocol, host, port, *_ = line.split()
assert protocol == "h3", line
scheme, _, rest = url.partition("://")
ask(f"{scheme}://{host}:{port}/{rest.partition('/')[2]}", CurlHttpVersion.V3ONLY)
