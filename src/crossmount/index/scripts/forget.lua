-- Removes repositories as sources of a layer; with the last source of a layer also its flags.
-- KEYS: the layer's set of sources on one registry, the layer's flags
-- ARGV: now (epoch seconds), the registry's field, then the repositories
local sources, flags, now = KEYS[1], KEYS[2], tonumber(ARGV[1])
for i = 3, #ARGV do
  redis.call('SREM', sources, ARGV[i])
end
if redis.call('EXISTS', sources) == 1 then
  return 0
end
redis.call('HDEL', flags, ARGV[2])
local all = redis.call('HGETALL', flags)
for i = 1, #all, 2 do
  local field, value = all[i], all[i + 1]
  if field == 'must_mount' or string.sub(field, 1, 1) == '@' and (tonumber(value) or 0) > now then
    return 0
  end
end
redis.call('DEL', flags)
return 1
