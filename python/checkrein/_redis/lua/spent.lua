-- What was spent and is held within a window.
local now, window = struct.unpack('<dd', ARGV[1])
if not header then
    return '1 0 0 0'
end
local on_server = now == SERVER
if on_server then
    now = server_time()
end
look_at_oldest()
end_leases(now)
if #fresh > 0 then
    flush(header)
    look_at_oldest()
end
local sum, shown_places = spent(now, window)
local rest = finish(now, on_server)
if rest then
    rest()
end
return sum and '1 ' .. shown(sum, shown_places) or '!'
