"""A script of a user's own for several hosts: it says who it is, finds the others by their names and talks to them."""

SCRIPT = '''
import json, os, pathlib, signal, socket, sys, time

def main():
    base = pathlib.Path(os.environ.get("SAGEMAKER_BASE_DIR") or "/opt/ml")
    resources = json.loads((base / "input/config/resourceconfig.json").read_text())
    me, hosts = resources["current_host"], resources["hosts"]
    mode, culprit = os.environ.get("HOSTS_MODE", ""), os.environ.get("HOSTS_CULPRIT")
    if mode in ("wait", "fail"):
        stop = []
        signal.signal(signal.SIGTERM, lambda *_: stop.append(1))
        print("started", me, flush=True)
        if me == culprit:
            time.sleep(0.5)
            (base / "output" / "failure").write_text("the market is closed")
            sys.exit(3)
        while not stop:
            time.sleep(0.05)
        print("stopped", me, flush=True)
        return
    if mode == "told":  # one is killed, and is seen to have ended after another has said so
        time.sleep(1 if me == culprit else 0.2)
        if me == culprit:
            os.kill(os.getpid(), signal.SIGKILL)
        (base / "output" / "failure").write_text(f"host {culprit} ended without a word")
        sys.exit(1)
    if mode == "deaf":
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        print("started", me, flush=True)
        time.sleep(600)
    heard = exchanged(me, hosts, resources)
    data = base / "input" / "data" / "train" / "prices.csv"
    try:
        data.open("a").close()
        writable = True
    except OSError:
        writable = False
    seen = {"resources": resources, "heard": heard, "prices": data.read_text(), "writable": writable,
            "root": os.getuid() == 0}
    (base / "output" / "data" / f"{me}.json").write_text(json.dumps(seen))
    (base / "model" / "folder").mkdir(exist_ok=True)  # the hosts of the SDK's local mode share model/
    (base / "model" / "folder" / me).write_text(me)
    (base / "model" / "every.txt").write_text("the same")
    (base / "model" / "own.txt").write_text(me)
    (base / "output" / "success").touch()
    print("heard", *heard, flush=True)

def exchanged(me, hosts, resources):
    """The names that the other hosts say over TCP."""
    address = lambda host: (resources.get("addresses", {}).get(host, host), resources.get("ports", {}).get(host, 7777))
    with socket.create_server(("", address(me)[1])) as server:
        server.settimeout(60)
        for other in hosts:
            if other != me:
                send(address(other), me)
        heard = []
        while len(heard) < len(hosts) - 1:
            connection, _ = server.accept()
            with connection:
                heard.append(connection.recv(100).decode())
    return sorted(heard)

def send(address, text):
    deadline = time.monotonic() + 60
    while True:
        try:
            with socket.create_connection(address, timeout=5) as connection:
                connection.sendall(text.encode())
            return
        except OSError:  # it is not up yet
            if time.monotonic() > deadline:
                raise
            time.sleep(0.1)

if __name__ == "__main__":
    main()
'''
