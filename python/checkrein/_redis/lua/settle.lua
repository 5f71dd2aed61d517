-- Ends a reservation: releases it, or records what it really cost.
-- `now` of -2^53 is the latest time the ledger has seen, which is the server's own where that is its clock.
local now, releases, digits, a, b, c, d, e, name, attempt = struct.unpack('<ddddddddc32c12', ARGV[1])
if not header then
    return '?'
end
local on_server = now == SERVER or now == NEVER and by_server
if on_server then
    now = server_time()
elseif now == NEVER then
    now = newest == NEVER and 0 or newest
end
local hold = command('HGET', holds_key, name)
command('ZSCORE', leases_key, name)
local repeated = is_repeated(attempt)
if not hold then
    return repeated and '1' or '?'
end
look_at_oldest()
local amount, held_digits, _, settled = read_hold(hold)
if releases == 0 then
    local actual = {a, b, c, d, e}
    if settled then
        -- The full amount was recorded when the lease ended; only what exceeds it is new.
        actual = is_more(actual, amount) and minus(actual, amount) or NOTHING
    end
    if not record(now, actual, digits) then
        return '!'
    end
end
if not settled then
    free(amount, held_digits)
end
holds = math.max(holds - 1, 0)
remember(attempt)
local rest = finish(now, on_server)
command('HDEL', holds_key, name)
command('ZREM', leases_key, name)
if rest then
    rest()
end
return '1'
