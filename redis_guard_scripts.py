"""The steps of the guard store in Redis, in Lua: each runs as a whole, or not at all.

Lua prints no number to the last digit: what it gives back and keeps is packed. A log is one string: the sum of its
amounts, then its entries, oldest first. Keys end by the server's clock, a little later than by ours, and what has
ended by ours has no effect any more.
"""

import struct
from collections.abc import Iterator, Sequence

from redis_connection import Script

_ENTRY_BYTES = 14
MOST_COUNTED = 2**48 - 1
_AMOUNT_AND_TIME = struct.Struct("<dd")


def entries_of(log: bytes) -> Iterator[tuple[float, int]]:
    """When and how much, of a log without its sum."""
    for place in range(0, len(log), _ENTRY_BYTES):
        entry = log[place : place + _ENTRY_BYTES]
        yield struct.unpack("<d", entry[:8])[0], int.from_bytes(entry[8:], "little")


def without_sum(log: bytes | None) -> bytes:
    return log[6:] if log else b""


# What arrives when its sender waits no more must not stand in the way of what is sent next.
_UNLESS_LATE = """
if ARGV[1] ~= '' then
  local time = redis.call('TIME')
  if time[1] * 1000 + time[2] / 1000 > tonumber(ARGV[1]) then
    return 0
  end
end
"""

# ARGV: server time in milliseconds until which this counts, or nothing; now, "1" to count or "0" only to look; for
# each key, in packed doubles: amount, when it is counted, lifetime, milliseconds to keep, number of windows, and
# limit and seconds of each window.
# Returns 1, or the logs without their sums when a charge does not fit, or 0 when it is too late.
RESERVE = Script(
    _UNLESS_LATE
    + """
local unpack, sub, call = struct.unpack, string.sub, redis.call
local now, fits = tonumber(ARGV[2]), true
local totals, logs = {}, {}
for i = 1, #KEYS do
  local amount, _, lifetime, _, windows = unpack('<ddddd', ARGV[i + 3])
  local log, total, entries = call('GET', KEYS[i]), 0, ''
  if log then
    local first, size = 7, #log
    total = unpack('<I6', log)
    while first <= size do
      local at, ended = unpack('<dI6', log, first)
      if at + lifetime > now then
        break
      end
      total, first = total - ended, first + 14
    end
    entries = sub(log, first)
  end
  totals[i], logs[i] = total, entries
  for window = 1, windows do
    local limit, seconds = unpack('<dd', ARGV[i + 3], 25 + 16 * window)
    if total + amount > limit then
      local used = total
      if windows > 1 then
        used = 0
        for first = 1, #entries, 14 do
          local at, counted = unpack('<dI6', entries, first)
          if at + seconds > now then
            used = used + counted
          end
        end
      end
      fits = fits and used + amount <= limit
    end
  end
end

if not fits then
  return logs
end
if ARGV[3] ~= '1' then
  return 1
end

for i = 1, #KEYS do
  local amount, at, _, keep_ms = unpack('<dddd', ARGV[i + 3])
  local entries, sum = logs[i], struct.pack('<I6', totals[i] + amount)
  local after, before = #entries + 1, #entries
  while before > 0 do
    local entry_at, counted = unpack('<dI6', entries, before - 13)
    if entry_at < at then
      break
    end
    before = before - 14
    if entry_at == at then
      amount = amount + counted
      break
    end
    after = before + 1  -- machines whose clocks differ a little do not come in the order of their times
  end
  local entry = struct.pack('<dI6', at, amount)
  call('SET', KEYS[i], sum .. sub(entries, 1, before) .. entry .. sub(entries, after), 'PX', keep_ms)
end
return 1
"""
)


def charge_argument(amount: int, at: float, rule: bytes) -> bytes:
    return _AMOUNT_AND_TIME.pack(amount, at) + rule


def rule_argument(lifetime_seconds: float, keep_ms: int, windows: Sequence[tuple[int, float]]) -> bytes:
    """What the script is told of a rule; each window is a limit and seconds."""
    numbers = [lifetime_seconds, keep_ms, len(windows)]
    for limit, seconds in windows:
        numbers += (min(limit, MOST_COUNTED), seconds)
    return struct.pack(f"<{len(numbers)}d", *numbers)


# KEYS: logs of which something is refunded, then shares in which something is counted. ARGV: how many logs; for
# each of them when it was counted and the amount; for shares the oldest cohort that counts, the cohort, begun,
# verified, and milliseconds to keep.
SETTLE = Script("""
local logs = tonumber(ARGV[1])
for i = 1, logs do
  local at, amount = tonumber(ARGV[2 * i]), tonumber(ARGV[2 * i + 1])
  local log = redis.call('GET', KEYS[i]) or ''
  for first = #log - 13, 7, -14 do
    local entry_at, kept = struct.unpack('<dI6', log, first)
    if entry_at == at then
      local taken = math.min(kept, amount)
      local left = ''
      if kept > taken then
        left = struct.pack('<dI6', at, kept - taken)
      end
      local entries = string.sub(log, 7, first - 1) .. left .. string.sub(log, first + 14)
      if entries == '' then
        redis.call('DEL', KEYS[i])
      else
        local total = struct.unpack('<I6', log) - taken
        redis.call('SET', KEYS[i], struct.pack('<I6', total) .. entries, 'KEEPTTL')
      end
      break
    end
  end
end

local oldest, cohort, more_begun, more_verified, keep_ms = unpack(ARGV, 2 * logs + 2)
oldest, cohort = tonumber(oldest), tonumber(cohort)
for i = logs + 1, #KEYS do
  local cohorts, begun, verified = redis.call('GET', KEYS[i]) or '', 0, 0
  local kept = {}
  for first = 1, #cohorts, 12 do
    local number, of_begun, of_verified = struct.unpack('<I4I4I4', cohorts, first)
    if number == cohort then
      begun, verified = of_begun, of_verified
    elseif number >= oldest then
      kept[#kept + 1] = string.sub(cohorts, first, first + 11)
    end
  end
  begun, verified = math.max(0, begun + more_begun), verified + more_verified
  kept[#kept + 1] = struct.pack('<I4I4I4', cohort, begun, verified)
  redis.call('SET', KEYS[i], table.concat(kept), 'PX', keep_ms)
end
""")


def cohorts_of(packed: bytes) -> Iterator[tuple[int, int, int]]:
    """Cohort, begun, verified."""
    return struct.iter_unpack("<III", packed)


# Values of blocks, and of what is remembered, begin with the moment at which they end.

# ARGV: until when this counts, as above; now, the value, milliseconds to keep. Returns the value that stands, or 0
# when it is too late.
REMEMBER = Script(
    _UNLESS_LATE
    + """
local standing = redis.call('GET', KEYS[1])
if standing and tonumber(ARGV[2]) < struct.unpack('<d', standing) then
  return standing
end
redis.call('SET', KEYS[1], ARGV[3], 'PX', ARGV[4])
return false
"""
)

_DROP_ENDED_BLOCKS = """
local now = tonumber(ARGV[1])
local all = redis.call('HGETALL', KEYS[1])
for i = 1, #all, 2 do
  if struct.unpack('<d', all[i + 1]) <= now then
    redis.call('HDEL', KEYS[1], all[i])
  end
end
"""

# ARGV: now, field, value.
BLOCK = Script(f"""{_DROP_ENDED_BLOCKS}
redis.call('HSET', KEYS[1], ARGV[2], ARGV[3])
""")

# KEYS: blocks, strikes of the target. ARGV: now, field, value without its end, seconds, the longest time.
# Returns the block that stands then.
STRIKE = Script(f"""{_DROP_ENDED_BLOCKS}
local standing = redis.call('HGET', KEYS[1], ARGV[2])
if standing then
  return standing
end
local seconds, longest, count = tonumber(ARGV[4]), tonumber(ARGV[5]), 0
local strikes = redis.call('GET', KEYS[2])
if strikes then
  local number, forget_at = struct.unpack('<I4d', strikes)
  if now < forget_at then
    count = number
  end
end
local ends_at = now + math.min(seconds * 2 ^ count, longest)
local block = struct.pack('<d', ends_at) .. ARGV[3]
redis.call('HSET', KEYS[1], ARGV[2], block)
local keep_ms = math.ceil(2 * longest * 1000)
redis.call('SET', KEYS[2], struct.pack('<I4d', count + 1, ends_at + longest), 'PX', keep_ms)
return block
""")

# KEYS: blocks, strikes of the target. ARGV: field.
UNBLOCK = Script("""
redis.call('DEL', KEYS[2])
return redis.call('HDEL', KEYS[1], ARGV[1])
""")
