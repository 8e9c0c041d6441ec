"""The steps of the guard store in Redis, in Lua: each runs as a whole, or not at all.

Lua prints no number to the last digit: what it gives back and keeps is packed. A log is one string: the sum of its
amounts, then its entries, oldest first. Keys end by the server's clock, a little later than by ours, and what has
ended by ours has no effect any more.
"""

import struct
from collections.abc import Iterator

from redis_connection import Script

_ENTRY_BYTES = 14
MOST_COUNTED = 2**48 - 1


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

# ARGV: server time in milliseconds until which this counts, or nothing; now, '1' to count or '0' only to look; for
# each key: amount, when it is counted, lifetime, milliseconds to
# keep, number of windows, and limit and seconds of each window.
# Returns 1, or the logs without their sums when a charge does not fit, or 0 when it is too late.
RESERVE = Script(
    _UNLESS_LATE
    + """
local now, counts, place = tonumber(ARGV[2]), ARGV[3] == '1', 3
local function argument()
  place = place + 1
  return tonumber(ARGV[place])
end

local charges, fits = {}, true
for i, key in ipairs(KEYS) do
  local charge = {amount = argument(), at = argument()}
  local lifetime = argument()
  charge.keep_ms = argument()
  local log = redis.call('GET', key) or ''
  local total, first = 0, 7
  if log ~= '' then
    total = struct.unpack('<I6', log)
  end
  while first <= #log do
    local at, amount = struct.unpack('<dI6', log, first)
    if at + lifetime > now then
      break
    end
    total, first = total - amount, first + 14
  end
  charge.total, charge.entries = total, string.sub(log, first)

  local windows = argument()
  for _ = 1, windows do
    local limit, seconds = argument(), argument()
    local used = total
    if windows > 1 and total + charge.amount > limit then
      used = 0
      for at_byte = 1, #charge.entries, 14 do
        local at, amount = struct.unpack('<dI6', charge.entries, at_byte)
        if at + seconds > now then
          used = used + amount
        end
      end
    end
    fits = fits and used + charge.amount <= limit
  end
  charges[i] = charge
end

if not fits then
  local logs = {}
  for i, charge in ipairs(charges) do
    logs[i] = charge.entries
  end
  return logs
end
if not counts then
  return 1
end

for i, key in ipairs(KEYS) do
  local charge = charges[i]
  local entries, amount, after = charge.entries, charge.amount, #charge.entries + 1
  -- Machines whose clocks differ a little do not come in the order of their times.
  while after > 1 and struct.unpack('<d', entries, after - 14) > charge.at do
    after = after - 14
  end
  local before = after
  if after > 1 then
    local at, kept = struct.unpack('<dI6', entries, after - 14)
    if at == charge.at then
      amount, before = amount + kept, after - 14
    end
  end
  local log = struct.pack('<I6', charge.total + charge.amount) .. string.sub(entries, 1, before - 1)
    .. struct.pack('<dI6', charge.at, amount) .. string.sub(entries, after)
  redis.call('SET', key, log, 'PX', charge.keep_ms)
end
return 1
"""
)

# ARGV, for each key: when it was counted, amount.
REFUND = Script("""
for i, key in ipairs(KEYS) do
  local at, amount = tonumber(ARGV[2 * i - 1]), tonumber(ARGV[2 * i])
  local log = redis.call('GET', key) or ''
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
        redis.call('DEL', key)
      else
        local total = struct.unpack('<I6', log) - taken
        redis.call('SET', key, struct.pack('<I6', total) .. entries, 'KEEPTTL')
      end
      break
    end
  end
end
""")

# ARGV: the oldest cohort that counts, the cohort, begun, verified, milliseconds to keep.
TALLY = Script("""
local oldest, cohort = tonumber(ARGV[1]), tonumber(ARGV[2])
for _, key in ipairs(KEYS) do
  local cohorts, begun, verified = redis.call('GET', key) or '', 0, 0
  local kept = {}
  for first = 1, #cohorts, 12 do
    local number, of_begun, of_verified = struct.unpack('<I4I4I4', cohorts, first)
    if number == cohort then
      begun, verified = of_begun, of_verified
    elseif number >= oldest then
      kept[#kept + 1] = string.sub(cohorts, first, first + 11)
    end
  end
  begun, verified = math.max(0, begun + tonumber(ARGV[3])), verified + tonumber(ARGV[4])
  kept[#kept + 1] = struct.pack('<I4I4I4', cohort, begun, verified)
  redis.call('SET', key, table.concat(kept), 'PX', ARGV[5])
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
