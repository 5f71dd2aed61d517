-- Holds an amount if it fits. The name of the reservation is also that of the attempt: one that exists is not made twice.
local now, window, digits, a, b, c, d, e, la, lb, lc, ld, le, name = struct.unpack('<dddddddddddddc32', ARGV[1])
local on_server = now == SERVER
if on_server then
    now = server_time()
end
local amount = {a, b, c, d, e}
local exists = header and command('HGET', holds_key, name)
command('ZSCORE', leases_key, name)
prepare(now, window)
local sum, shown_places = spent(now, window)
local answer, hold, ends = '!', nil, nil
if sum and exists then
    answer = '1 ' .. shown(sum, shown_places)
elseif sum then
    local after = plus(sum, amount)
    if not fits(after) then
        answer = '!'
    elseif la >= 0 and is_more(after, {la, lb, lc, ld, le}) then
        answer = '0 ' .. shown(sum, shown_places)
    else
        local lease = math.max(window, LEASE)
        hold, ends = hold_text(amount, digits, lease, false), now + lease
        due = holds > 0 and math.min(due, ends) or ends
        holds, held, last_due = holds + 1, plus(held, amount), math.max(last_due, ends)
        local known = false
        for _, seen in ipairs(held_places) do
            if seen[1] == digits then
                known, seen[2] = true, seen[2] + 1
            end
        end
        if not known then
            held_places[#held_places + 1] = {digits, 1}
        end
        newest, changed, lengthen = math.max(newest, now), true, true
        answer = '1 ' .. shown(after, math.max(shown_places, digits))
    end
end
if header or hold then
    local rest = finish(now, on_server)
    if hold then
        command('HSET', holds_key, name, hold)
        command('ZADD', leases_key, string.format('%.0f', ends), name)
    end
    if rest then
        rest()
    end
end
return answer
