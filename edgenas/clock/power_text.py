"""The text that a POSIX ``sh`` runs on a board to tell the power that it draws, again and again.

`edgenas.clock.shell` sends it. The first line of stdin is the pause between two samples, in
seconds. It reads the board's own power sensor (ina3221; the paths are in docs/reference/jetson.md),
or where that is closed ``tegrastats``, or the energy counters of a processor (RAPL). The first line
of the answer names the rails, and each further line has their numbers: milliwatts, or microjoules
of a counter. The end of stdin ends it.
"""

POWER_TEXT = r"""
IFS= read -r S || S=0.1
R=${EDGENAS_BOARD_ROOT-}
PATH=${R:+$R/usr/bin:}$PATH:/usr/sbin:/sbin LC_ALL=C
export PATH LC_ALL
exec 3<&0 </dev/null
get() { v=; [ -f "$1" ] && { IFS= read -r v <"$1"; } 2>/dev/null; [ -n "$v" ]; }
whole() { case $v in ''|*[!0-9]*) v=0 ;; esac; }
n=
set --
for d in "$R"/sys/bus/i2c/drivers/ina3221*/*/hwmon/hwmon*; do
  for i in 1 2 3; do
    get "$d/in${i}_label" || continue
    o=$v; get "$d/in${i}_input" && get "$d/curr${i}_input" || continue
    n="$n	$o"; set -- "$@" "$d/in${i}_input" "$d/curr${i}_input"
  done
done
for d in "$R"/sys/bus/i2c/drivers/ina3221*/*/iio:device*; do
  for i in 0 1 2; do
    get "$d/rail_name_$i" || continue
    o=$v; get "$d/in_power${i}_input" || continue
    n="$n	$o"; set -- "$@" - "$d/in_power${i}_input"
  done
done
k=rails
if [ $# -eq 0 ]; then
  if command -v tegrastats >/dev/null 2>&1; then k=tegrastats; else
    k=counters
    for d in "$R"/sys/class/powercap/intel-rapl:?; do
      get "$d/name" || continue
      o=$v; get "$d/energy_uj" || continue
      n="$n	$o"; set -- "$@" - "$d/energy_uj"
    done
    [ $# -eq 0 ] && k=none
  fi
fi
printf 'edgenas-power %s%s\n' "$k" "$n"
[ $k = none ] && exit 0
if [ $k = tegrastats ]; then
  tegrastats --interval 100 2>/dev/null 3<&- &
else
  while :; do
    l=; a=
    for f; do
      if [ -z "$a" ]; then a=$f; continue; fi
      get "$f"; whole; b=$v
      if [ "$a" != - ]; then get "$a"; whole; b=$((v * b / 1000)); fi
      l="$l $b"; a=
    done
    echo "$l" || exit
    sleep "$S" || sleep 1 || exit
  done 2>/dev/null 3<&- &
fi
p=$!
trap 'kill $p 2>/dev/null' EXIT
trap 'exit 143' HUP INT TERM PIPE
while read -r x <&3; do :; done
"""
