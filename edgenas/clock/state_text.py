"""The text that a POSIX ``sh`` runs on a board to tell its state. It reads, and changes nothing.

It needs no Python there and no file of its own: `edgenas.clock.shell` sends it. It reads files of
``/proc``, ``/sys`` and ``/etc``, and runs commands that only tell. Each command has a limit of
time, and each answer a limit of bytes. It prints lines of a key and fields between tabs, which
`edgenas.clock.state_reading` reads. Where boards keep all this: ``docs/reference/jetson.md``.

The first line of its stdin names the Python whose packages it tells; ``-`` for none. The variable
``EDGENAS_BOARD_ROOT`` names a folder that stands for ``/``, for a board that is recorded in files.
"""

STATE_TEXT = r"""
IFS= read -r P || P=-
R=${EDGENAS_BOARD_ROOT-}
PATH=${R:+$R/usr/sbin:$R/usr/bin:}$PATH:/usr/sbin:/sbin
LC_ALL=C ORT_DISABLE_TELEMETRY=1
export PATH LC_ALL ORT_DISABLE_TELEMETRY
say() { k=$1; shift; printf '%s' "$k"; for f; do printf '\t%s' "$f"; done; printf '\n'; }
get() { v=; [ -f "$1" ] && { IFS= read -r v <"$1"; } 2>/dev/null; [ -n "$v" ]; }
text() { v=; [ -f "$1" ] && v=$(head -c 4096 "$1" 2>/dev/null | tr '\000\n\t' '   '); [ -n "$v" ]; }
has() { command -v "$1" >/dev/null 2>&1; }
lines() {
  head -c 16384 | tr -d '\000\r' | while IFS= read -r l || [ -n "$l" ]; do say "$1" "$l"; done
}
if timeout -s KILL 9 true 2>/dev/null; then
  try() { s=$1; shift; timeout -s KILL "$s" "$@" </dev/null; }
elif timeout -t 9 -s KILL true 2>/dev/null; then
  try() { s=$1; shift; timeout -t "$s" -s KILL "$@" </dev/null; }
else
  try() {
    s=$1; shift; "$@" </dev/null & p=$!
    (sleep "$s"; kill -9 "$p") >/dev/null 2>&1 & w=$!
    wait "$p"; c=$?; kill "$w" 2>/dev/null; return "$c"
  }
fi

say edgenas-state 1
say kernel "$(uname -srm)"
text "$R/etc/os-release" && sed -n 's/^PRETTY_NAME=//p' "$R/etc/os-release" | lines os
text "$R/proc/device-tree/model" && say model "$v"
text "$R/proc/device-tree/compatible" && say compatible "$v"
get "$R/sys/class/dmi/id/product_name" && say product "$v"
get "$R/etc/nv_tegra_release" && say l4t "$v"
for t in nvpmodel jetson_clocks tegrastats nvidia-smi vcgencmd; do has $t && say tool $t; done
if has dpkg-query; then
  try 10 dpkg-query -W -f '${Package} ${Version} ${Status}\n' nvidia-jetpack nvidia-l4t-core \
    libnvinfer-bin libnvinfer8 libnvinfer10 2>/dev/null | lines package
fi

for t in /usr/src/tensorrt/bin/trtexec /usr/bin/trtexec /opt/tensorrt/bin/trtexec; do
  t=$R$t; [ -x "$t" ] && break
done
[ -x "$t" ] || t=$(command -v trtexec)
if [ -x "$t" ]; then
  say trtexec "$t"
  try 30 "$t" --help 2>&1 | head -c 1000 | head -n 1 | lines trtexec-says
fi

has nvpmodel && try 5 nvpmodel -q 2>&1 | lines nvpmodel
get "$R/var/lib/nvpmodel/status" && say nvpmodel-status "$v"
if [ -f "$R/etc/nvpmodel.conf" ]; then
  grep -e '^ *< *POWER_MODEL ' -e '^ *< *PM_CONFIG ' "$R/etc/nvpmodel.conf" | lines mode
fi

n=0
for d in "$R"/sys/class/devfreq/*; do
  n=$((n + 1)); [ -d "$d" ] && [ $n -le 40 ] || continue
  text "$d/device/of_node/name"; o=$v
  get "$d/min_freq"; a=$v; get "$d/max_freq"; b=$v; get "$d/cur_freq"; c=$v; get "$d/governor"
  say devfreq "${d##*/}" "$o" "$a" "$b" "$c" "$v"
done
n=0
for d in "$R"/sys/devices/system/cpu/cpufreq/policy*; do
  n=$((n + 1)); [ -d "$d" ] && [ $n -le 40 ] || continue
  get "$d/related_cpus"; o=$v; get "$d/cpuinfo_max_freq"; h=$v; get "$d/scaling_min_freq"; a=$v
  get "$d/scaling_max_freq"; b=$v; get "$d/scaling_cur_freq"; c=$v; get "$d/scaling_governor"
  say cpufreq "$o" "$a" "$b" "$c" "$v" "$h"
done
get "$R/sys/devices/system/cpu/online" && say cpu-online "$v"
get "$R/sys/devices/system/cpu/offline" && say cpu-offline "$v"
if [ -f "$R/proc/cpuinfo" ]; then
  grep -e '^model name' -e '^Features' -e '^flags' -e '^CPU part' -e '^Model' "$R/proc/cpuinfo" |
    sort -u | lines cpuinfo
fi

n=0
for d in "$R"/sys/class/thermal/thermal_zone* "$R"/sys/class/thermal/cooling_device*; do
  n=$((n + 1)); [ -d "$d" ] && [ $n -le 200 ] || continue
  get "$d/type"; o=$v
  case ${d##*/} in
    thermal*) get "$d/temp" && say zone "$o" "$v" ;;
    *) get "$d/max_state"; b=$v; get "$d/cur_state" && say cooling "$o" "$v" "$b" ;;
  esac
done
for d in "$R"/sys/bus/i2c/drivers/ina3221*/*/hwmon/hwmon*; do
  for i in 1 2 3; do
    get "$d/in${i}_label" || continue
    o=$v; get "$d/in${i}_input"; a=$v; get "$d/curr${i}_input"; b=$v
    get "$d/curr${i}_crit_alarm"; c=$v; get "$d/curr${i}_max_alarm"
    say rail "$o" "$a" "$b" "" "$c" "$v"
  done
done
for d in "$R"/sys/bus/i2c/drivers/ina3221*/*/iio:device*; do
  for i in 0 1 2; do
    get "$d/rail_name_$i" || continue
    o=$v; get "$d/in_power${i}_input" && say rail "$o" "" "" "$v" "" ""
  done
done
for d in "$R"/sys/class/powercap/intel-rapl:*; do
  get "$d/name" || continue
  o=$v; get "$d/energy_uj"; say rapl "$o" "$v"
done
n=0
for d in "$R"/sys/class/hwmon/hwmon*; do
  n=$((n + 1)); [ -d "$d" ] && [ $n -le 40 ] || continue
  get "$d/name"; o=$v; get "$d/pwm1"; a=$v; get "$d/fan1_input" || get "$d/rpm"
  [ -n "$a$v" ] && say fan "$o" "$a" "$v"
done
get "$R/sys/devices/pwm-fan/cur_pwm" && say fan pwm-fan "$v" ""

if [ -f "$R/proc/meminfo" ]; then
  grep -e '^MemTotal:' -e '^MemAvailable:' -e '^SwapTotal:' -e '^SwapFree:' "$R/proc/meminfo" |
    lines memory
fi
for o in / /dev/shm; do
  [ -d "$R$o" ] && try 5 df -kP "$R$o" 2>/dev/null | tail -n 1 | lines "disk	$o"
done
get "$R/proc/loadavg" && say load "$v"
has vcgencmd && try 5 vcgencmd get_throttled 2>/dev/null | lines throttled
has nvidia-smi && try 10 nvidia-smi --format=csv,noheader \
  --query-gpu=name,driver_version,clocks.current.sm,clocks.max.sm,temperature.gpu 2>/dev/null |
  lines gpu

if [ "$P" != - ]; then
  case $P in "~/"*) P=$HOME/${P#"~/"} ;; esac
  C='import sys; sys.path[:] = filter(None, sys.path); import importlib
if len(sys.argv) < 2: print("ok", sys.version.split()[0]); sys.exit()
m = importlib.import_module(sys.argv[1]); p = getattr(m, "get_available_providers", list)()
print("ok", getattr(m, "__version__", "?"), *p)'
  o=$(try 20 "$P" -B -c "$C" 2>&1 | tail -n 1 | head -c 400)
  say python "$P" "$o"
  case $o in "ok "*)
    for m in numpy onnxruntime openvino ncnn ai_edge_litert tensorrt; do
      say module $m "$(try 40 "$P" -B -c "$C" $m 2>&1 | tail -n 1 | head -c 400)"
    done ;;
  esac
fi
say end
"""
