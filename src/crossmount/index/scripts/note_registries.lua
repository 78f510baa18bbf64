-- Notes the registries that layers are recorded on. The first one becomes the home registry: a layer that is on it alone
-- needs no flags. Another one takes its place once nothing was recorded there for as long as sources live.
-- KEYS: the namespace's hash of registries
-- ARGV: seconds to live, the most registries, then registries
-- Returns: the home registry
local registries, now, ttl = KEYS[1], tonumber(redis.call('TIME')[1]), tonumber(ARGV[1])
local home, ends = redis.call('HGET', registries, 'home'), tonumber(redis.call('HGET', registries, 'home_ends')) or 0
for i = 3, #ARGV do
  if not home or ends <= now then
    home, ends = ARGV[i], 0
    redis.call('HSET', registries, 'home', home)
  end
  if ARGV[i] == home and ends < now + ttl then
    ends = now + ttl
    redis.call('HSET', registries, 'home_ends', string.format('%d', ends))
  end
  local field = '@' .. ARGV[i]
  if redis.call('HEXISTS', registries, field) == 0 and redis.call('HLEN', registries) < tonumber(ARGV[2]) then
    redis.call('HSET', registries, field, now)
  end
end
if redis.call('TTL', registries) < ttl then
  redis.call('EXPIRE', registries, ttl)
end
return home
