#!/bin/sh
# Prints the Debian version of a version as "git describe --tags --always --dirty" gives it:
#
#   v1.2.3                  1.2.3
#   v1.2.3-5-gabc1234       1.2.3+5.gabc1234         five commits later
#   v1.3.0-rc1              1.3.0~rc1                before 1.3.0
#   v1.3.0-rc1-5-gabc1234   1.3.0~rc1+5.gabc1234
#   abc1234                 0~git20261121.abc1234    no tag yet; the date puts builds in order
#   anything-dirty          ... .dirty               sorts after the commit it was made from
#
# The date is that of SOURCE_DATE_EPOCH, in UTC.
set -eu
v=${1#v}
dirty=
case $v in *-dirty) v=${v%-dirty} dirty=.dirty ;; esac
if printf %s "$v" | grep -Eqx '[0-9]+(\.[0-9]+)+([-~+.][0-9A-Za-z.~+-]*)?'; then
  v=$(printf %s "$v" | sed -E 's/-([0-9]+)-(g[0-9a-f]+)$/+\1.\2/; s/-/~/; s/-/./g')
elif printf %s "$v" | grep -Eqx '[0-9a-f]+'; then
  v="0~git$(date -u -d "@${SOURCE_DATE_EPOCH:-$(date +%s)}" +%Y%m%d).$v"
else
  echo "version.sh: $1: neither a version nor a commit" >&2
  exit 1
fi
case $dirty$v in .dirty*+* | .dirty0~git*) ;; .dirty*) dirty=+dirty ;; esac
echo "$v$dirty"
