# More of what benches/compose_peer prints; sourced by it. Each measure writes its lines to $work/lines.
#
#   many      500 services start and stop: the time of one, beside that of one of 50
#   resident  10 services run: memory of keeper, supervisor and anchor; processor time in 10 s
#   flood     a service writes 2,000,000 lines: until it has ended and all are in the log, docker's
#             json-file beside it; the memory of a `ficelle logs` that reads them all
#   port      bytes through a published port on loopback, docker-proxy beside it

many_services=500
flood_lines=2000000
port_bytes=$((4 << 30))

line() { printf '%-34s %s\n' "$1" "$2" | tee -a "$work/lines" >&2; }

# milliseconds_of COMMAND...: sets $ms.
milliseconds_of() {
    local from=${EPOCHREALTIME/./}
    "$@" >"$work/last.log" 2>&1 || {
        tail -n 20 "$work/last.log" >&2
        die "failed: $*"
    }
    ms=$(((${EPOCHREALTIME/./} - from) / 1000))
}

# compose_file NAME: a directory, made and entered, for a project of one file that standard input holds.
compose_file() {
    mkdir -p "$work/$1"
    cat >"$work/$1/compose.yaml"
    cd "$work/$1" || exit 1
}

# Growth: what one of many costs, by what one of 50 costs.
measure_many() {
    local phase size up down
    for size in 50 "$many_services"; do
        compose_file "many$size" < <(project "$size")
        milliseconds_of compose_ficelle up --detach && up=$ms
        milliseconds_of compose_ficelle down && down=$ms
        echo "$size $up $down" >>"$work/many"
        line "$size services, up / down" "$up / $down ms"
    done
    for phase in 2 3; do
        awk -v column=$phase 'NR == 1 { one = $column / $1 } NR == 2 { printf "%.2f", $column / $1 / one }' \
            "$work/many" >"$work/growth.$phase"
    done
    line "growth of the time of one, up / down" "$(cat "$work/growth.2") / $(cat "$work/growth.3") (1 is linear)"
}

# Ours that serve the state tree $work/ficelle: name and number.
residents() {
    local path name
    for path in /proc/[0-9]*; do
        grep -qsF "$work/ficelle" "$path/cmdline" || continue
        name=$(cat "$path/comm")
        case $name in ficelle-*) echo "$name ${path#/proc/}" ;; ficelle) echo "anchor ${path#/proc/}" ;; esac
    done | sort
}

measure_resident() {
    local name pid before=0 after=0
    compose_file resident < <(project 10)
    milliseconds_of compose_ficelle up --detach
    # They give back what only starting took when nothing has happened for a second.
    sleep 3
    residents >"$work/residents"
    while read -r name pid; do
        awk -v name="$name" '/^Rss/ { rss = $2 } /^Pss:/ { pss = $2 } /^Private/ { own += $2 }
            END { printf "%s %.1f %.1f %.1f\n", name, rss / 1024, pss / 1024, own / 1024 }' "/proc/$pid/smaps_rollup"
    done <"$work/residents" >"$work/memory"
    while read -r name rss pss own; do
        line "$name, 10 services" "RSS $rss, PSS $pss, private $own MB"
    done <"$work/memory"
    line "all of them" "$(awk '{ r += $2; p += $3; o += $4 } END { printf "RSS %.1f, PSS %.1f, private %.1f MB", r, p, o }' "$work/memory")"
    # Nanoseconds on a processor.
    while read -r name pid; do before=$((before + $(cut -d ' ' -f 1 "/proc/$pid/schedstat"))); done <"$work/residents"
    sleep 10
    while read -r name pid; do after=$((after + $(cut -d ' ' -f 1 "/proc/$pid/schedstat"))); done <"$work/residents"
    line "processor time in 10 idle seconds" "$(((after - before) / 1000)) us"
    milliseconds_of compose_ficelle down
}

measure_flood() {
    local tool reader peak=0
    compose_file flood <<YAML
services:
  flood:
    image: busybox
    command: ["sh", "-c", "yes 0123456789012345678901234567890123456789012345678901234567890 | head -n $flood_lines"]
    # More than ours keep by themselves, so that every line can be counted.
    logging: {driver: json-file, options: {max-size: 1g}}
YAML
    for tool in "${tools[@]}"; do
        milliseconds_of "flood_$tool"
        line "$flood_lines lines, $tool" "$ms ms"
    done
    for tool in "${tools[@]}"; do
        [ "$(count_lines "$tool")" = "$flood_lines" ] || die "$tool lost lines"
        [ "$tool" = docker ] || {
            compose_ficelle logs --no-log-prefix >/dev/null &
            reader=$!
            while kill -0 "$reader" 2>/dev/null; do
                peak=$(awk '/^VmHWM/ { print $2 }' "/proc/$reader/status" 2>/dev/null || true)
                echo "${peak:-0}" >>"$work/peak"
                sleep 0.05
            done
            line "memory of \`ficelle logs\`, at most" "$(sort -n "$work/peak" | tail -n 1 | awk '{ printf "%.1f MB", $1 / 1024 }')"
        }
        "compose_$tool" down >/dev/null 2>&1
    done
}

count_lines() { "compose_$1" logs --no-log-prefix 2>/dev/null | grep -c '^0'; }

# Until the program has ended and what it wrote is in the log.
flood_docker() {
    docker-compose up --detach
    docker wait flood-flood-1
}

flood_ficelle() {
    compose_ficelle up --detach
    until compose_ficelle ps --all --format json | grep -q exited; do sleep 0.02; done
}

# A server that writes as fast as it can, and a client that reads; both of Python.
measure_port() {
    local tool port rate
    command -v python3 >/dev/null || {
        line "published port" "skipped: no python3 here"
        return 0
    }
    compose_file port <<'YAML'
services:
  serve:
    image: python:3
    ports: ["127.0.0.1::5000"]
    command:
      - python3
      - -c
      - |
        import socket
        listener = socket.create_server(("", 5000))
        block = bytes(1 << 20)
        while True:
            peer, _ = listener.accept()
            try:
                while True:
                    peer.sendall(block)
            except OSError:
                peer.close()
YAML
    for tool in "${tools[@]}"; do
        milliseconds_of "compose_$tool" up --detach
        port=$("compose_$tool" port serve 5000)
        rate=$(port_command "$tool" python3 - "${port##*:}" "$port_bytes" <<'PYTHON'
import socket, sys, time
port, left = int(sys.argv[1]), int(sys.argv[2])
for _ in range(100):
    try:
        peer = socket.create_connection(("127.0.0.1", port))
        if peer.recv(1):
            break
    except OSError:
        pass
    time.sleep(0.05)
buffer, total, began = bytearray(1 << 20), left, time.monotonic()
while left > 0:
    got = peer.recv_into(buffer)
    if not got:
        sys.exit("the server is gone")
    left -= got
print(f"{total * 8 / (time.monotonic() - began) / 1e9:.1f} Gbit/s")
PYTHON
        )
        line "published port, $tool" "$rate"
        "compose_$tool" down --timeout 0 >/dev/null 2>&1
    done
}

# The peer's ports are in the network of its daemon.
port_command() {
    local tool=$1
    shift
    if [ "$tool" = docker ]; then
        nsenter --net="/proc/$(cat "/proc/$daemon/task/$daemon/children" | tr -d ' ')/ns/net" -- "$@"
    else
        "$@"
    fi
}
