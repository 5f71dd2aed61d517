-- Decides on one call of a gate and counts it when it is allowed.
--
-- KEYS[1] is a list: the calls that some window still sees, oldest first, and the header as its last element.
--   A call is (stamp, calls before it): what a window sees is one subtraction, and popping old calls changes no sum.
--   A header is (format, calls, retention, lifetime, early, early_at, newest, renewed) and the latest attempts.
-- ARGV[1] is (now, window, cooldown, most calls, attempt). Times are whole microseconds; now is 2^53 where the
-- server's own clock counts, a window of -1 sees everything. An attempt that was counted is not counted again: a
-- client whose connection broke repeats what may have run.
--
-- The first write is always one that a full server refuses, so that nothing is half done.
local SERVER, NEVER, EXACT, CELLS = 9007199254740992, -9007199254740992, 1024, 1000
local HEADER, ATTEMPT, ATTEMPTS, SLACK = 58, 12, 96, 3600000

local key = KEYS[1]
local now, window, cooldown, most, attempt = struct.unpack('<ddddc12', ARGV[1])
local on_server = now == SERVER
if on_server then
    local time = redis.call('TIME')
    now = time[1] * 1000000 + time[2]
end

local total, retention, lifetime, early, early_at, newest, renewed = 0, 0, -1, 0, 0, NEVER, 0
local attempts = ''
local header = redis.call('LINDEX', key, -1)
if header then
    if #header < HEADER or (#header - HEADER) % ATTEMPT ~= 0 or string.sub(header, 1, 1) ~= 'A' then
        return '#'
    elseif string.sub(header, 2, 2) ~= '1' then
        return '#newer'
    end
    local format
    format, total, retention, lifetime, early, early_at, newest, renewed = struct.unpack('<c2ddddddd', header)
    if not (total >= 0 and total < SERVER and retention >= 0 and lifetime >= -1 and early >= 0
            and early_at == early_at and newest >= NEVER and newest <= SERVER and renewed == renewed) then
        return '#'
    end
    attempts = string.sub(header, HEADER + 1)
end

-- The stamp of a call and the calls before it; nothing behind the last call.
local function call_at(index)
    local call = redis.call('LINDEX', key, index)
    if call and #call == 16 then
        return struct.unpack('<dd', call)
    end
end

-- How many calls the list holds, before anything leaves it.
local oldest, before = nil, total
if header then
    local stamp, calls = call_at(0)
    if stamp then
        oldest, before = stamp, calls
    end
end

local changed, kept = false, lifetime >= 0
if window >= 0 then
    if retention == 0 then
        -- Only lifetimes were asked for so far: their calls have no stamps but the last.
        early, early_at = math.max(lifetime, 0), newest == NEVER and 0 or newest
    end
    if window > retention then
        retention, changed = window, true
    end
elseif lifetime < 0 then
    lifetime, changed = total - before, true
end
if retention > 0 then
    local cutoff = now - retention
    if oldest and oldest < cutoff then
        redis.call('LTRIM', key, first_since(call_at, cutoff), -1)
        oldest, before = call_at(0)
        before = before or total
    end
    if lifetime < 0 and newest < cutoff then
        newest = NEVER
    end
end

local count
if window < 0 then
    count = lifetime
else
    local cutoff = now - window
    local earlier = before
    if oldest and oldest < cutoff then
        local _, calls = call_at(first_since(call_at, cutoff))
        earlier = calls or total
    end
    count = total - earlier + (early_at >= cutoff and early or 0)
end
local age = newest ~= NEVER and now - newest or nil
if age and window >= 0 and age > window then
    age = nil
end
local cooling = cooldown > 0 and age and age < cooldown
local repeated = string.find(attempts, attempt, 1, true)
local allowed = repeated or (not cooling and count < most)

local in_order = newest == NEVER or now >= newest
local stamp, position = now, total
if allowed and not repeated then
    count = count + 1
    if retention > 0 then
        total = total + 1
    end
    if lifetime >= 0 then
        lifetime = lifetime + 1
    end
    newest = math.max(newest, now)
    attempts = string.sub(attempt .. attempts, 1, ATTEMPTS)
    changed = true
end

-- Keeps the key as long as any window sees a call in it. On the server's own clock the time is prolonged once a
-- window; another clock may stand still, and is given an hour more each time.
local function expiry()
    if lifetime >= 0 then
        return header and not kept and -1
    elseif not on_server then
        renewed = 0
        return retention / 1000 + SLACK
    elseif newest + retention > renewed then
        renewed = now + 2 * retention
        return retention / 500 + 1
    end
end

if changed and (header or allowed) then
    local milliseconds = expiry()
    local old = header
    header = struct.pack('<c2ddddddd', 'A1', total, retention, lifetime, early, early_at, newest, renewed) .. attempts
    if not allowed or repeated or retention == 0 then
        if old then
            redis.call('LSET', key, -1, header)
        else
            redis.call('RPUSH', key, header)
        end
    elseif not old then
        redis.call('RPUSH', key, struct.pack('<dd', stamp, position), header)
    elseif in_order then
        local merged
        if position - before >= EXACT and redis.call('LLEN', key) > EXACT then
            -- So many that they share cells: a cell leaves with its latest call.
            local cell = math.max(math.floor(retention / CELLS), 1)
            local last, calls = call_at(-2)
            if last and math.floor(last / cell) == math.floor(stamp / cell) then
                merged = struct.pack('<dd', stamp, calls)
            end
        end
        if merged then
            redis.call('LSET', key, -2, merged)
            redis.call('LSET', key, -1, header)
        else
            redis.call('LSET', key, -1, struct.pack('<dd', stamp, position))
            redis.call('RPUSH', key, header)
        end
    else
        -- The clock went back: the call goes where it belongs, and every later one has one more before it.
        redis.call('LSET', key, -1, old)
        local later = {}
        while true do
            local last, calls = call_at(-2)
            if not last or last <= stamp then
                break
            end
            later[#later + 1] = struct.pack('<dd', last, calls + 1)
            position = calls
            redis.call('LTRIM', key, 0, -3)
            redis.call('RPUSH', key, old)
        end
        redis.call('LSET', key, -1, struct.pack('<dd', stamp, position))
        for index = #later, 1, -1 do
            redis.call('RPUSH', key, later[index])
        end
        redis.call('RPUSH', key, header)
    end
    if milliseconds == -1 then
        redis.call('PERSIST', key)
    elseif milliseconds then
        redis.call('PEXPIRE', key, string.format('%.0f', math.ceil(milliseconds)))
    end
end
return (allowed and '1 ' or '0 ') .. string.format('%.0f ', count) .. (age and string.format('%.0f', age) or '-')
