-- Removes repositories as sources of a layer; with the last source of a layer also its flags.
-- KEYS: the layer's set of sources on one registry, the layer's flags
-- ARGV: the registry's field, then the repositories
local sources, flags, now = KEYS[1], KEYS[2], tonumber(redis.call('TIME')[1])
for i = 2, #ARGV do
  redis.call('SREM', sources, ARGV[i])
end
for _, member in ipairs(redis.call('SRANDMEMBER', sources, 4)) do
  if not string.find(member, '^=') then  -- anything else than the layer's size
    return 0
  end
end
redis.call('DEL', sources)
redis.call('HDEL', flags, ARGV[1])
if redis.call('HLEN', flags) > 1000 then  -- a stranger's, as in record.lua
  redis.call('DEL', flags)
end
local all = redis.call('HGETALL', flags)
for i = 1, #all, 2 do
  local field, value = all[i], all[i + 1]
  -- must_mount: a flag of 0.1.0, which stays until an operator carries it over
  if field == 'must_mount' or string.sub(field, 1, 1) == '@' and (tonumber(value) or 0) > now then
    return 0
  end
end
redis.call('DEL', flags)
return 1
