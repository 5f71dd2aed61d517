-- KEYS     the records, then every other key that is written
-- ARGV     earliest, latest (microseconds; empty: the time is given), records, caps, a claim (or nothing),
--          the version of each record (empty: there is none; after it how many calls are counted behind its head, if any),
--          for each cap the index's key and the most it may have (or `there`: it must hold the
--          mark of a server that is trusted),
--          then the writes: for each the number of arguments, the command, its key, the arguments,
--          then, after a `*`, those that only put a value under a key: the key, the value
-- returns  the time, when everything was written; otherwise nothing was, and it returns why, the time, and every record:
--          1 the time is not within the bounds, 2 a version is another one, 2 + i the i-th index is full
local call, sub = redis.call, string.sub
local clock = call('TIME')
local now = clock[1] * 1000000 + clock[2]
local records, caps = tonumber(ARGV[3]), tonumber(ARGV[4])
-- So many values are passed to one command: Lua has room for 8,000.
local most = 1000

-- A claim is taken unless another holds that is not older than 20 ms: from then on only its owner's version fits.
local function take_turn(claim)
  for i = 1, records do
    local format = call('GETRANGE', KEYS[i], 0, 0)
    if format ~= '' and format ~= '\1' then return end
    local a, b, c, d, e = string.byte(call('GETRANGE', KEYS[i], 1, 5), 1, 5)
    if a == 255 then
      local age = (math.floor(now / 1000) - (b * 16777216 + c * 65536 + d * 256 + e)) % 4294967296
      if age <= 20 then return end
    end
  end
  for i = 1, records do
    if call('EXISTS', KEYS[i]) == 1 then call('SETRANGE', KEYS[i], 1, claim) end
  end
end

local function refuse(why)
  if why == 2 and ARGV[5] ~= '' then take_turn(ARGV[5]) end
  local all = {why, now}
  for i = 1, records do
    local head = call('GET', KEYS[i])
    local flags = head and string.byte(head, 10) or 0
    all[3 * i] = head
    all[3 * i + 1] = flags % 2 == 1 and call('HGETALL', KEYS[i] .. ':h')
    all[3 * i + 2] = flags >= 2 and call('LRANGE', KEYS[i] .. ':t', 0, -1)
  end
  return all
end

if ARGV[1] ~= '' and (now < tonumber(ARGV[1]) or now > tonumber(ARGV[2])) then return refuse(1) end
-- One command reads many records in less time than many read one each. It takes a key of another type for none, so what
-- must not be there is counted as well.
local new
for first = 1, records, most do
  local last = math.min(first + most - 1, records)
  local heads = call('MGET', unpack(KEYS, first, last))
  for i = first, last do
    local head, version = heads[i - first + 1], ARGV[5 + i]
    if version == '' then
      new = new or {}
      new[#new + 1] = KEYS[i]
    else
      local there = head and sub(head, 1, 9) or ''
      if #version > 9 then there = there .. call('LLEN', KEYS[i] .. ':t') end
      if there ~= version then return refuse(2) end
    end
  end
end
if new then
  for first = 1, #new, most do
    if call('EXISTS', unpack(new, first, math.min(first + most - 1, #new))) > 0 then return refuse(2) end
  end
end
local at = 6 + records
for i = 1, caps do
  local key, full = KEYS[tonumber(ARGV[at])], ARGV[at + 1]
  if full == 'there' then
    -- The mark of the accepted server: somebody who found it gone says so in its place.
    local mark = call('GET', key)
    if not mark or sub(mark, -4) == 'lost' then return refuse(2) end
  elseif call('ZCARD', key) > tonumber(full) then
    return refuse(2 + i)
  end
  at = at + 2
end
local last = #ARGV
while at <= last and ARGV[at] ~= '*' do
  local count = tonumber(ARGV[at])
  call(ARGV[at + 1], KEYS[tonumber(ARGV[at + 2])], unpack(ARGV, at + 3, at + 2 + count))
  at = at + 3 + count
end
at = at + 1
while at < last do
  local both, count = {}, 0
  for i = at, math.min(at + 2 * most - 1, last), 2 do
    both[count + 1], both[count + 2] = KEYS[tonumber(ARGV[i])], ARGV[i + 1]
    count = count + 2
  end
  call('MSET', unpack(both))
  at = at + count
end
return now
